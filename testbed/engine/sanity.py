"""The sanity pair of every run: attacks work where nothing is hidden, and only there.

An identity front-end must be inverted almost perfectly, or the attacks are broken and a good
figure means nothing. Constant features must give exactly the mean image's score, or an attack
knows something that it was not given. Both are run on the run's own auxiliary images.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from testbed.adversaries.base import Evidence, FloatArray, Intercepts, LabelledImages
from testbed.adversaries.mounting import mount
from testbed.core.seeds import generator
from testbed.data.federated import FederatedData, to_unit
from testbed.privacy.scores import mse

IMAGES = 12
VICTIMS = 4
SIDE_PX = 32  # larger images are cut to their centre: the check is of the attacks, not of the data
IDENTITY_SHARE = 1 / 100
"""An identity front-end counts as inverted below this share of the mean image's error."""

ROUNDING = 1e-7

IDENTITY_ATTACKS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("white_box", {"start": "mean_image", "steps": 40, "tv_weights": [0.0], "tuning_images": 2}),
)
CONSTANT_ATTACKS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("ridge", {}),
    ("residual_decoder", {"max_epochs": 1, "augment": False}),
    ("white_box", {"start": "mean_image", "steps": 8}),
)
Check = dict[str, Any]


class _Identity:
    """A front-end that sends the image itself."""

    def differentiable_query(self, x: Tensor, draw: int) -> Tensor:
        return x.clone()

    def query(self, images: FloatArray, draw: int) -> FloatArray:
        return images.copy()


class _Constant(_Identity):
    """A front-end that sends the same whatever it sees, varying over space alone."""

    def differentiable_query(self, x: Tensor, draw: int) -> Tensor:
        pattern = torch.linspace(-1.0, 3.0, 4 * 8 * 8).reshape(1, 4, 8, 8)
        return pattern + 0.0 * x.mean(dim=(1, 2, 3), keepdim=True)

    def query(self, images: FloatArray, draw: int) -> FloatArray:
        return self.differentiable_query(torch.tensor(images), draw).numpy()


def sanity_checks(data: FederatedData, seed: int) -> list[Check]:
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
    return [
        _check(
            "an identity front-end is inverted almost perfectly",
            _errors(_Identity(), parts, IDENTITY_ATTACKS, seed),
            parts,
            lambda error, mean: error < IDENTITY_SHARE * mean,
        ),
        _check(
            "constant features give exactly the mean image's score",
            _errors(_Constant(), parts, CONSTANT_ATTACKS, seed),
            parts,
            lambda error, mean: abs(error - mean) <= ROUNDING,
        ),
    ]


def _centre(data: FederatedData, rows: NDArray[np.int64]) -> LabelledImages:
    images = to_unit(data.pool.images[rows])
    height, width = images.shape[2:]
    top, left = max(0, height - SIDE_PX) // 2, max(0, width - SIDE_PX) // 2
    cut = images[:, :, top : top + SIDE_PX, left : left + SIDE_PX]
    return LabelledImages(np.ascontiguousarray(cut), data.pool.labels[rows])


def _errors(
    front_end: _Identity,
    parts: Sequence[LabelledImages],
    attacks: Sequence[tuple[str, dict[str, Any]]],
    seed: int,
) -> dict[str, float]:
    held, validation, victims = parts
    evidence = Evidence(
        num_classes=int(max(part.labels.max() for part in parts)) + 1,
        auxiliary=held,
        auxiliary_validation=validation,
        intercepts=Intercepts(front_end.query(victims.images, 10), victims.labels),
        oracle=front_end,
    )
    attack_seed = int(generator(seed, "sanity attacks").integers(2**31))
    return {
        name: float(mse(mount(name, options, evidence, attack_seed).images, victims.images).mean())
        for name, options in attacks
    }


def _check(name: str, errors: dict[str, float], parts: Any, holds: Any) -> Check:
    held, _, victims = parts
    anchor = held.images.mean(axis=0, dtype=np.float64).astype(np.float32)
    mean = float(mse(np.broadcast_to(anchor, victims.images.shape), victims.images).mean())
    listed = ", ".join(f"{attack} {error:.2g}" for attack, error in errors.items())
    passed = all(holds(error, mean) for error in errors.values())
    return {
        "name": f"attacks: {name}",
        "passed": bool(passed),
        "detail": f"MSE {listed}; mean image {mean:.2g}",
    }
