"""Anchor: the mean auxiliary image of the class that the answer names.

Whoever reads the answers already knows this much, so only what an attack adds to it is leakage of
the features.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from testbed.adversaries.base import Evidence, LabelledImages, Reconstruction
from testbed.adversaries.mean_image import mean_of
from testbed.core.registries import ATTACKS
from testbed.core.registry import NoOptions
from testbed.scenario.threat_model import ThreatModel


@ATTACKS.register("class_mean_image", "anchor: the mean auxiliary image of the answered class")
class ClassMeanImage:
    """Answers an intercept by the class that was sent back; it never looks at the features."""

    is_anchor = True
    rebuilds_images = True
    threat = ThreatModel(answers=True)
    search_space: ClassVar[Mapping[str, Sequence[Any]]] = {}

    def __init__(self, options: NoOptions) -> None:
        self.options = options

    def mount(
        self, evidence: Evidence, seed: int, progress: Callable[[str], None] | None = None
    ) -> Reconstruction:
        """Return class means; the overall mean without an answer or an image of its class."""
        auxiliary = evidence.auxiliary
        overall = mean_of(auxiliary)
        answers = evidence.intercepts.answers
        images = np.broadcast_to(overall, (len(answers), *overall.shape)).copy()
        for label in range(evidence.num_classes):
            members = auxiliary.labels == label
            if members.any():
                own = LabelledImages(auxiliary.images[members], auxiliary.labels[members])
                images[answers == label] = mean_of(own)
        return Reconstruction(images)
