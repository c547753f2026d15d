"""Anchors: reconstructions without the features, by the auxiliary images and the answers alone.

An attack that does worse than the mean image has failed; that is not privacy. The answers alone
allow the class mean, so only what an attack adds to it is leakage of the features.
"""

import numpy as np

from testbed.adversaries.base import (
    Attack,
    Evidence,
    FloatArray,
    LabelledImages,
    Reconstruction,
    Report,
)
from testbed.adversaries.effort import Effort
from testbed.core.registries import ATTACKS
from testbed.scenario.threat_model import ThreatModel


def mean_of(data: LabelledImages) -> FloatArray:
    """Return the mean image (C, H, W), accumulated in double precision."""
    mean: FloatArray = data.images.mean(axis=0, dtype=np.float64).astype(np.float32)
    return mean


def repeated(image: FloatArray, count: int) -> FloatArray:
    """Return ``count`` copies of an image (C, H, W)."""
    return np.broadcast_to(image, (count, *image.shape)).copy()


@ATTACKS.register("mean_image", "anchor: the mean of the auxiliary images for every victim")
class MeanImage(Attack):
    """Returns the same image for every intercept."""

    is_anchor = True
    threat = ThreatModel()

    def mount(self, evidence: Evidence, seed: int, report: Report) -> Reconstruction:
        """Return the mean auxiliary image once per intercept."""
        return Reconstruction(
            repeated(mean_of(evidence.auxiliary), len(evidence.intercepts.features))
        )

    def effort(self, evidence: Evidence, intercepts: int) -> list[Effort]:
        """Return nothing: means take no time."""
        return []


@ATTACKS.register("class_mean_image", "anchor: the mean auxiliary image of the answered class")
class ClassMeanImage(Attack):
    """Returns the mean image of the class that the cloud answered."""

    is_anchor = True
    threat = ThreatModel(answers=True)

    def mount(self, evidence: Evidence, seed: int, report: Report) -> Reconstruction:
        """Return class means; the overall mean without an answer or an image of its class."""
        auxiliary, answers = evidence.auxiliary, evidence.intercepts.answers
        images = repeated(mean_of(auxiliary), len(answers))
        for label in range(evidence.num_classes):
            members = auxiliary.labels == label
            if members.any():
                of_class = LabelledImages(auxiliary.images[members], auxiliary.labels[members])
                images[answers == label] = mean_of(of_class)
        return Reconstruction(images)

    def effort(self, evidence: Evidence, intercepts: int) -> list[Effort]:
        """Return nothing: means take no time."""
        return []
