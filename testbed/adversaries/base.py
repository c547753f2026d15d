"""The contract of an attack, and the only things an adversary can be given.

Nothing here can hold a victim's image: an attack is built from intercepted features, auxiliary
images of its own and, where its threat model grants it, the deployed front-end. The scorer, which
knows the truth, is elsewhere (``testbed.privacy``) and sees reconstructions only.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from testbed.scenario.components import Component
from testbed.scenario.threat_model import ThreatModel

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class LabelledImages:
    """Auxiliary images in [0, 1], float32 (N, C, H, W), and their classes (N,)."""

    images: FloatArray
    labels: IntArray

    def first(self, count: int) -> "LabelledImages":
        """Return the first ``count`` of them."""
        return LabelledImages(self.images[:count], self.labels[:count])


@dataclass(frozen=True)
class Intercepts:
    """Features read at the taps, float32 (N, C', H', W'), and the answers that went back (N,)."""

    features: FloatArray
    answers: IntArray


class FrontEndOracle(Protocol):
    """The deployed front-end with its defence, as the threat model grants it."""

    def query(self, images: FloatArray, draw: int) -> FloatArray:
        """Return released features of images in [0, 1]; ``draw`` numbers fresh random releases."""


@runtime_checkable
class WhiteBoxOracle(FrontEndOracle, Protocol):
    """A front-end whose weights the adversary holds too, for instance from a device of its own."""

    def differentiable_query(self, x: Tensor, draw: int) -> Tensor:
        """Return released features of ``x`` (N, C, H, W) in [0, 1], with gradients to ``x``."""


@dataclass(frozen=True)
class Evidence:
    """Everything an attack gets.

    Attributes
    ----------
    num_classes : classes of the task.
    auxiliary, auxiliary_validation : disjoint images of the attacker's own.
    intercepts : what the taps read; nothing in it identifies a person or an image.
    oracle : the deployed front-end, where granted.
    query_limit : images that may be asked for in all, or None without a limit.
    design : name and options of the front-end's architecture, where granted.
    replays : releases of each victim's image that its intercept is the mean of.
    elsewhere : further intercepts, each (N, C', H', W'), to be reconstructed with what was learned
        without learning from them: those of other tiers, or a fixed set of victims.
    trained : weights by name of what it trained at the cloud while the fleet trained, or None.
    """

    num_classes: int
    auxiliary: LabelledImages
    auxiliary_validation: LabelledImages
    intercepts: Intercepts
    oracle: FrontEndOracle | None
    query_limit: int | None = None
    architecture: Component | None = None
    replays: int = 1
    elsewhere: tuple[FloatArray, ...] = ()
    trained: Mapping[str, FloatArray] | None = None


@dataclass(frozen=True)
class CurvePoint:
    """One epoch of an attack's training: mean squared errors per element."""

    epoch: int
    training_mse: float
    validation_mse: float


@dataclass(frozen=True)
class Reconstruction:
    """Images in [0, 1], float32 (N, C, H, W), one per intercept, and how the attack went.

    Attributes
    ----------
    curve : training curve, empty for attacks that do not train.
    best_epoch : epoch whose parameters were used, by validation error.
    reached_plateau : whether its training ended on a plateau, not at its limit of epochs; None for
        attacks that do not train until one.
    body_parameters : learned parameters without the input adapter, equal for every defence.
    adapter_parameters : learned parameters of the input adapter, which follow the feature shape.
    queries : images whose released features were asked for; filled in by ``mount``.
    inferred : what an attack says of the intercepts beside images, or None.
    again : the attack as it was learned, from features to images; ``mount`` uses it up.
    elsewhere : what it made of the evidence's ``elsewhere``; filled in by ``mount``.
    """

    images: FloatArray
    curve: list[CurvePoint] = field(default_factory=list)
    best_epoch: int | None = None
    reached_plateau: bool | None = None
    body_parameters: int | None = None
    adapter_parameters: int | None = None
    queries: int = 0
    inferred: "Inferred | None" = None
    again: Callable[[FloatArray], FloatArray] | None = None
    elsewhere: tuple[FloatArray, ...] = ()


@dataclass(frozen=True)
class Inferred:
    """What an attack says of each intercept without rebuilding its image.

    Attributes
    ----------
    classes : the class it takes the image for, (N,).
    companions : the other intercept it takes for the same person's, (N,); empty with one intercept.
    """

    classes: IntArray
    companions: IntArray


class Attack(Protocol):
    """An attack: fit on what the adversary owns, then reconstruct what it intercepted.

    Attributes
    ----------
    is_anchor : whether it never looks at the features.
    rebuilds_images : whether its images are reconstructions, or stand for what it inferred.
    threat : what it needs.
    search_space : options worth tuning, and values to try.
    """

    is_anchor: bool
    rebuilds_images: bool
    threat: ThreatModel
    search_space: Mapping[str, Sequence[Any]]

    def mount(
        self, evidence: Evidence, seed: int, progress: Callable[[str], None] | None = None
    ) -> Reconstruction:
        """Run the whole attack; deterministic in (options, evidence, seed)."""
