"""The contract of an attack, and everything that an adversary can be given.

Nothing here can hold a victim's image: an attack gets intercepted features, auxiliary images and,
if its threat model grants it, the deployed front-end. The scores, which need the true images, are
computed in ``testbed.privacy`` from the reconstructions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from testbed.adversaries.effort import Effort, Sizes
from testbed.core.registry import Options
from testbed.scenario.components import Component, Strength
from testbed.scenario.threat_model import ThreatModel

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
Report = Callable[[str], None]
"""Takes one line of text on the progress of an attack."""


def silent(text: str) -> None:
    """Report nothing."""


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
    """Features read at the taps, float32 (N, C', H', W'), and the answers to them (N,)."""

    features: FloatArray
    answers: IntArray


class FrontEndOracle(Protocol):
    """The deployed front-end with its defence, as the threat model grants it."""

    def query(self, images: FloatArray, draw: int) -> FloatArray:
        """Return released features of images in [0, 1]; ``draw`` numbers fresh random releases."""


@runtime_checkable
class WhiteBoxOracle(FrontEndOracle, Protocol):
    """A front-end whose weights the adversary holds too."""

    def differentiable_query(self, x: Tensor, draw: int) -> Tensor:
        """Return released features of ``x`` (N, C, H, W) in [0, 1], with gradients to ``x``."""


@dataclass(frozen=True)
class Evidence:
    """Everything that an attack gets.

    Attributes
    ----------
    num_classes : classes of the task.
    auxiliary, auxiliary_validation : the attacker's images, disjoint from each other.
    intercepts : what the taps read, without anything that identifies a person or an image.
    oracle : the deployed front-end, if granted.
    query_limit : total number of images that may be queried, or None without a limit.
    architecture : name and options of the front-end's architecture, if granted.
    replays : number of releases of a victim's image that its intercept averages.
    apply_to : further features by label, each (N, C', H', W'), to be reconstructed but not learned
        from. ``mounting.mount`` applies the learned attack to them; the attack never sees them.
    trained : weights by name that it trained at the cloud during the training, or None.
    """

    num_classes: int
    auxiliary: LabelledImages
    auxiliary_validation: LabelledImages
    intercepts: Intercepts
    oracle: FrontEndOracle | None
    query_limit: int | None = None
    architecture: Component | None = None
    replays: int = 1
    apply_to: Mapping[str, FloatArray] = field(default_factory=dict)
    trained: Mapping[str, FloatArray] | None = None


@dataclass(frozen=True)
class EpochErrors:
    """Mean squared errors per element in one epoch of an attack's training."""

    epoch: int
    training_mse: float
    validation_mse: float


@dataclass(frozen=True)
class Reconstruction:
    """Images in [0, 1], float32 (N, C, H, W), one per intercept, and how the attack went.

    Attributes
    ----------
    training_curve : errors by epoch, empty for attacks that do not train.
    best_epoch : the epoch with the least validation error, whose parameters were used.
    reached_plateau : whether the training ended on a plateau and not at its limit of epochs; None
        for attacks that do not train until a plateau.
    validation_mse : mean squared error on the images that it was chosen on, the attacker's
        validation images; None where the deployed front-end does not give their features.
    body_parameters : learned parameters without the input adapter, equal for every defence.
    adapter_parameters : learned parameters of the input adapter, which depend on the feature shape.
    queries : images whose released features were queried; filled in by ``mounting.mount``.
    inferred : what the attack infers of the intercepts beside images, or None.
    again : the learned attack, from features to images; ``mounting.mount`` removes it.
    applied : reconstructions of the evidence's ``apply_to``; filled in by ``mounting.mount``.
    """

    images: FloatArray
    training_curve: list[EpochErrors] = field(default_factory=list)
    best_epoch: int | None = None
    reached_plateau: bool | None = None
    validation_mse: float | None = None
    body_parameters: int | None = None
    adapter_parameters: int | None = None
    queries: int = 0
    inferred: "Inferred | None" = None
    again: Callable[[FloatArray], FloatArray] | None = None
    applied: Mapping[str, FloatArray] = field(default_factory=dict)


@dataclass(frozen=True)
class Inferred:
    """What an attack infers of each intercept without rebuilding its image.

    Attributes
    ----------
    classes : predicted class, (N,).
    same_person : index of the other intercept that is predicted to show the same person, (N,);
        empty for a single intercept.
    """

    classes: IntArray
    same_person: IntArray


class Attack:
    """An attack: fit on what the adversary has, then reconstruct what it intercepted.

    Attributes
    ----------
    is_anchor : whether it ignores the features.
    rebuilds_images : whether its images are reconstructions, or only represent what it inferred.
    threat : what it needs.
    search_space : options worth tuning, and values to try.
    presets : options of ``fast`` and ``thorough`` (``evaluation.attacks``); the others keep their
        defaults, which are ``standard``.
    """

    is_anchor: ClassVar[bool] = False
    rebuilds_images: ClassVar[bool] = True
    threat: ClassVar[ThreatModel]
    search_space: ClassVar[Mapping[str, Sequence[Any]]] = {}
    presets: ClassVar[Mapping[Strength, Mapping[str, Any]]] = {}

    def __init__(self, options: Any) -> None:
        self.options = options

    def mount(self, evidence: Evidence, seed: int, report: Report) -> Reconstruction:
        """Run the whole attack; deterministic in (options, evidence, seed)."""
        raise NotImplementedError

    def builds_on(self) -> Mapping[str, Options]:
        """Return the attacks, with options, that it starts from or has among its choices.

        With at least their grants it must not do worse, which every run checks.
        """
        return {}

    def effort(self, evidence: Evidence, intercepts: int) -> list[Effort] | None:
        """Return the steps of ``mount`` for the dry run; None: unknown, which it then says.

        Parameters
        ----------
        evidence : as for ``mount``, but with a few made-up intercepts and initial weights.
        intercepts : how many there will be.
        """
        return None

    def memory_bytes(self, sizes: Sizes) -> int | None:
        """Return about how much memory ``mount`` takes; None: unknown, or little."""
        return None
