"""Anchor: the mean of the attacker's auxiliary images, whatever was intercepted.

An attack that does worse than this has failed; that is not privacy.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from testbed.adversaries.base import Evidence, FloatArray, LabelledImages, Reconstruction
from testbed.core.registries import ATTACKS
from testbed.core.registry import NoOptions
from testbed.scenario.threat_model import ThreatModel


def mean_of(data: LabelledImages) -> FloatArray:
    """Return the mean image (C, H, W), accumulated in double precision."""
    mean: FloatArray = data.images.mean(axis=0, dtype=np.float64).astype(np.float32)
    return mean


@ATTACKS.register("mean_image", "anchor: the mean of the auxiliary images for every victim")
class MeanImage:
    """Answers every intercept with one image; it never looks at the features."""

    is_anchor = True
    rebuilds_images = True
    threat = ThreatModel()
    search_space: ClassVar[Mapping[str, Sequence[Any]]] = {}

    def __init__(self, options: NoOptions) -> None:
        self.options = options

    def mount(
        self, evidence: Evidence, seed: int, progress: Callable[[str], None] | None = None
    ) -> Reconstruction:
        """Return the mean auxiliary image once per intercept."""
        mean = mean_of(evidence.auxiliary)
        count = len(evidence.intercepts.features)
        return Reconstruction(np.broadcast_to(mean, (count, *mean.shape)).copy())
