"""Two checks of the attacks in every run: they work if nothing is hidden, and only then.

An identity front-end must be inverted almost perfectly; otherwise the attacks are broken and good
figures of privacy mean nothing. Constant features must give exactly the mean image's score;
otherwise an attack has information that it was not given. Both checks use the run's auxiliary
images. Attacks that learn from many images get patches of the few images that a check can afford.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from testbed.adversaries.base import Evidence, FloatArray, Intercepts, LabelledImages
from testbed.adversaries.mounting import mount
from testbed.core.compute import as_array, on_device
from testbed.core.seeds import child, generator
from testbed.data.federated import FederatedData, to_unit
from testbed.privacy.scores import mse
from testbed.results.schema import SelfCheck

IMAGES = 12
VICTIMS = 4
SIDE_PX = (
    32  # larger images are cut to their centre: the checks are of the attacks, not of the data
)
ROUNDING = 1e-7


@dataclass(frozen=True)
class Probe:
    """One attack of a check.

    Attributes
    ----------
    patch_px : it is mounted on square patches of this side instead of whole images.
    share : an identity front-end counts as inverted below this share of the mean image's error.
    """

    attack: str
    options: dict[str, Any]
    patch_px: int | None = None
    share: float = 1 / 100


IDENTITY_PROBES = (
    Probe(
        "white_box",
        {
            "start": "mean_image",
            "steps": 40,
            "prior": "total_variation",
            "tv_weights": [0.0],
            "tuning_images": 2,
            "restarts": 1,
        },
    ),
    Probe("ridge", {}, patch_px=4),
    Probe(
        "residual_decoder",
        {"max_epochs": 6, "batch_size": 16, "min_epoch_steps": 24, "augment": False},
        patch_px=8,
        share=1 / 4,  # so brief a training leaves up to a tenth, on images rich in detail
    ),
)
CONSTANT_PROBES = (
    Probe("ridge", {}),
    Probe("residual_decoder", {"max_epochs": 1, "augment": False}),
    Probe("white_box", {"start": "mean_image", "steps": 8}),
)


@dataclass(frozen=True)
class _Outcome:
    """An attack's mean squared error on the check's victims, and the mean image's."""

    probe: Probe
    error: float
    mean: float


class _Identity:
    """A front-end that sends the image itself."""

    def differentiable_query(self, x: Tensor, draw: int) -> Tensor:
        return x.clone()

    def query(self, images: FloatArray, draw: int) -> FloatArray:
        return images.copy()


class _Constant(_Identity):
    """A front-end that sends the same whatever it sees, varying over space alone."""

    def differentiable_query(self, x: Tensor, draw: int) -> Tensor:
        pattern = on_device(torch.linspace(-1.0, 3.0, 4 * 8 * 8).reshape(1, 4, 8, 8))
        return pattern + 0.0 * x.mean(dim=(1, 2, 3), keepdim=True)

    def query(self, images: FloatArray, draw: int) -> FloatArray:
        return as_array(self.differentiable_query(on_device(torch.tensor(images)), draw))


def sanity_checks(data: FederatedData, seed: int) -> list[SelfCheck]:
    """Return the two checks of the attacks themselves; a second or so of work."""
    rows = generator(seed, "sanity images").permutation(data.parts.auxiliary)
    held, validation, victims = (
        rows[:IMAGES],
        rows[IMAGES : IMAGES + VICTIMS],
        rows[IMAGES + VICTIMS : IMAGES + 2 * VICTIMS],
    )
    if len(victims) == 0:  # very small data: the attacker's validation images stand in
        validation = victims = data.parts.auxiliary_validation[:VICTIMS]
    parts = [_centre(data, part) for part in (held, validation, victims)]
    identity = _outcomes(_Identity(), parts, IDENTITY_PROBES, seed)
    constant = _outcomes(_Constant(), parts, CONSTANT_PROBES, seed)
    return [
        _check(
            "an identity front-end is inverted almost perfectly",
            all(item.error < item.probe.share * item.mean for item in identity),
            identity,
        ),
        _check(
            "constant features give exactly the mean image's score",
            all(abs(item.error - item.mean) <= ROUNDING for item in constant),
            constant,
        ),
    ]


def _centre(data: FederatedData, rows: NDArray[np.int64]) -> LabelledImages:
    images = to_unit(data.pool.images[rows])
    height, width = images.shape[2:]
    top, left = max(0, height - SIDE_PX) // 2, max(0, width - SIDE_PX) // 2
    cut = images[:, :, top : top + SIDE_PX, left : left + SIDE_PX]
    return LabelledImages(np.ascontiguousarray(cut), data.pool.labels[rows])


def _patches(part: LabelledImages, side: int) -> LabelledImages:
    """Cut images (N, C, H, W) into all their patches of one side, each with its image's label."""
    count, channels, height, width = part.images.shape
    side = min(side, height, width)
    rows, columns = height // side, width // side
    cut = part.images[:, :, : rows * side, : columns * side]
    cells = cut.reshape(count, channels, rows, side, columns, side).transpose(0, 2, 4, 1, 3, 5)
    patches = np.ascontiguousarray(cells.reshape(-1, channels, side, side))
    return LabelledImages(patches, np.repeat(part.labels, rows * columns))


def _outcomes(
    front_end: _Identity, parts: Sequence[LabelledImages], probes: Sequence[Probe], seed: int
) -> list[_Outcome]:
    """Mount every probe's attack on the front-end's features of the victims.

    Parameters
    ----------
    parts : the attacker's images, its validation images, and the victims.
    """
    attack_seed = child(seed, "sanity attacks")
    outcomes = []
    for probe in probes:
        side = probe.patch_px
        held, validation, victims = (
            part if side is None else _patches(part, side) for part in parts
        )
        evidence = Evidence(
            num_classes=int(max(part.labels.max() for part in parts)) + 1,
            auxiliary=held,
            auxiliary_validation=validation,
            intercepts=Intercepts(front_end.query(victims.images, 10), victims.labels),
            oracle=front_end,
        )
        found = mount(probe.attack, probe.options, evidence, attack_seed)
        anchor = held.images.mean(axis=0, dtype=np.float64).astype(np.float32)
        mean = mse(np.broadcast_to(anchor, victims.images.shape), victims.images).mean()
        error = mse(found.images, victims.images).mean()
        outcomes.append(_Outcome(probe, float(error), float(mean)))
    return outcomes


def _check(name: str, passed: bool, outcomes: Sequence[_Outcome]) -> SelfCheck:
    errors = []
    for item in outcomes:
        side = item.probe.patch_px
        where = f" on {side}x{side} patches" if side else ""
        errors.append(f"{item.probe.attack}{where} {item.error:.2g} (mean image {item.mean:.2g})")
    return SelfCheck(name=f"attacks: {name}", passed=passed, detail=f"MSE {', '.join(errors)}")
