"""The profiled variants: all front-ends and defences, and the alternatives to splitting."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from clients.defences.base import Defence
from clients.front_ends.base import FrontEnd
from testbed.core.errors import UserError
from testbed.core.registries import CLOUD_MODELS, DEFENCES, FRONT_ENDS
from testbed.core.registry import Entry
from testbed.core.seeds import torch_generator
from testbed.fleet.layer_stats import LayerStats, layer_stats
from testbed.wire.encoding import payload_bytes

Shape = tuple[int, int, int]
FLOAT_BYTES = 4
RAW_BYTES_PER_VALUE = 1
"""Cameras give 8 bits per channel; no compression."""
MOST_CUTS = 8


@dataclass(frozen=True)
class Variant:
    """One way to share a classifier between device and cloud.

    Attributes
    ----------
    name : short name in tables, such as ``cnn cut 2``.
    kind : ``split``, ``whole`` (all on the device) or ``raw`` (the image goes to the cloud).
    edge, cloud : costs of the two halves; None where there is none.
    uplink_bytes : bytes sent to the cloud for one image.
    defences : defences that add no cost on the device.
    """

    name: str
    kind: str
    edge: LayerStats | None
    cloud: LayerStats | None
    uplink_bytes: int
    defences: tuple[str, ...] = ()
    module: nn.Module | None = field(default=None, compare=False, repr=False)

    @property
    def defended(self) -> bool:
        """Whether a defence adds cost on the device to the plain front-end."""
        return self.kind == "split" and self.module is None


class _Release(nn.Module):
    """The release of a defence, as a module whose cost can be counted."""

    def __init__(self, defence: Defence) -> None:
        super().__init__()
        self.defence = defence
        self.layers = defence.release_layers

    def forward(self, z: Tensor) -> Tensor:
        return self.defence.release(z, torch_generator(0, "profile release"))


def front_end_variants(image_shape: Shape, num_classes: int) -> list[Variant]:
    """Return every registered front-end at every cut it offers, with the defences it works with.

    Defences that change what the device computes or sends appear as variants of their own.

    Raises
    ------
    UserError : no front-end works at this image size.
    """
    found: list[Variant] = []
    for entry in FRONT_ENDS:
        for name, options in _choices(entry):
            try:
                found += _with_defences(name, entry.name, options, image_shape, num_classes)
            except (ValueError, RuntimeError, TypeError):
                continue  # this front-end does not work at this image size
    if not found:
        raise UserError(f"--image-size: no front-end works on images of {image_shape}")
    return found


def _choices(entry: Entry[FrontEnd]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the default options of a front-end, or one choice for every cut it offers."""
    bounds = entry.options.model_fields.get("cut")
    if bounds is None:
        yield entry.name, {}
        return
    for cut in range(1, MOST_CUTS + 1):
        try:
            entry.options.model_validate({"cut": cut})
        except ValueError:
            continue
        yield f"{entry.name} cut {cut}", {"cut": cut}


def _with_defences(
    label: str, name: str, options: dict[str, Any], image_shape: Shape, num_classes: int
) -> Iterator[Variant]:
    front_end = FRONT_ENDS.create(name, options, image_shape=image_shape)
    cloud_name, cloud_options = front_end.cloud_model
    shape = front_end.feature_shape
    cloud_model = CLOUD_MODELS.create(
        cloud_name, cloud_options, feature_shape=shape, num_classes=num_classes
    )
    cloud = layer_stats(cloud_model, shape)
    plain = layer_stats(front_end, image_shape)
    free = []
    for defence in DEFENCES:
        found = _with_release(plain, defence.name, image_shape, num_classes)
        if found is None:
            continue
        stats, sent = found
        if stats == plain:
            free.append(defence.name)
        else:
            name_of_both = f"{label} + {defence.name}"
            yield Variant(name_of_both, "split", stats, cloud, sent, (defence.name,))
    sent = FLOAT_BYTES * plain.output_elements
    yield Variant(label, "split", plain, cloud, sent, tuple(free), front_end)


def _with_release(
    plain: LayerStats, defence: str, image_shape: Shape, num_classes: int
) -> tuple[LayerStats, int] | None:
    """Add the cost of a defence's release; return the sum and the bytes that are sent.

    None if the defence needs options without a default.
    """
    channels, height, width = plain.output_shape
    try:
        built = DEFENCES.create(defence, {})
        built.build(image_shape, (channels, height, width), num_classes)
        if type(built).release is Defence.release:
            return plain, FLOAT_BYTES * plain.output_elements  # affects training only
        rng = torch_generator(0, "profile features")
        with torch.no_grad():
            z = torch.randn(1, channels, height, width, generator=rng)
            released = built.release(z, rng)
        sent = payload_bytes(built.encode(released))
        release = layer_stats(_Release(built), plain.output_shape)
    except (ValueError, RuntimeError, TypeError):
        return None
    return plain.then(release), sent


def alternatives(image_shape: Shape, num_classes: int) -> list[Variant]:
    """Return the whole CNN on the device, and the raw image to the cloud."""
    front_end = FRONT_ENDS.create("cnn", {}, image_shape=image_shape)
    name, options = front_end.cloud_model
    shape = front_end.feature_shape
    rest = CLOUD_MODELS.create(name, options, feature_shape=shape, num_classes=num_classes)
    whole = nn.Sequential(front_end, rest)
    stats = layer_stats(whole, image_shape)
    channels, height, width = image_shape
    raw_bytes = RAW_BYTES_PER_VALUE * channels * height * width
    return [
        Variant("whole cnn on device", "whole", stats, None, 0, ("none",), whole),
        Variant("raw image to cloud", "raw", None, stats, raw_bytes, ("none",)),
    ]


def all_variants(image_shape: Shape, num_classes: int) -> list[Variant]:
    """Return all variants; registered front-ends come first."""
    return front_end_variants(image_shape, num_classes) + alternatives(image_shape, num_classes)
