"""The threat model: what an attack needs, and what an adversary is granted beyond its intercepts.

An attack declares its needs on its class (``ThreatModel``); a scenario grants ``Knowledge``.
Results compare threat models by the ``grants`` that an attack used (docs/results.md).
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from testbed.core import registries
from testbed.scenario.components import PositiveShare, Section, below, check_options

MIN_QUERIES = 20

Conduct = Literal["passive", "active", "malicious training"]
"""An attacker's behaviour apart from reading; the latter two leave detectable traces."""


@dataclass(frozen=True)
class ThreatModel:
    """The needs of an attack beyond intercepted features and auxiliary images.

    Attributes
    ----------
    weights : the deployed front-end's weights, which allow unlimited queries to a copy.
    queries : features of images that it chooses.
    answers : the classes that the cloud returned.
    labels : the task's classes of its auxiliary images.
    design : the front-end's architecture, though not its weights.
    learns_from_intercepts : its success depends on the number of intercepted features.
    watches_training : it learns from the features that devices send while they train.
    steers_training : it also sends the devices gradients that it has forged.
    """

    weights: bool = False
    queries: bool = False
    answers: bool = False
    labels: bool = False
    architecture: bool = False
    learns_from_intercepts: bool = False
    watches_training: bool = False
    steers_training: bool = False

    @property
    def reads_features(self) -> bool:
        """Whether it reads features; anchors do not."""
        return self.queries or self.learns_from_intercepts or self.watches_training

    def conduct(self, knowledge: "Knowledge | None" = None, holds_weights: bool = False) -> Conduct:
        """Return whether the attack only reads, sends queries too, or deviates from the protocol.

        Parameters
        ----------
        knowledge : the adversary's; requesting replays is active.
        holds_weights : queries to a copy of the front-end leave no trace.
        """
        if self.steers_training:
            return "malicious training"
        asks = self.queries and not (self.weights or holds_weights)
        replays = knowledge is not None and knowledge.replays > 1
        return "active" if asks or (replays and self.reads_features) else "passive"

    def words(self, knowledge: "Knowledge | None" = None, in_training: bool = False) -> str:
        """Return the threat model as a phrase.

        Parameters
        ----------
        knowledge : the adversary's, if images, queries or replays are restricted or extended.
        in_training : whether the victims are training images.
        """
        granted = [self._images(knowledge)]
        front_end = "the front-end of the round" if in_training else "the deployed front-end"
        if self.answers:
            granted.append("the labels sent" if in_training else "the answers sent back")
        if self.learns_from_intercepts:
            granted.append("all features it intercepted")
        if self.watches_training:
            granted.append("all features that devices sent in training, and the cloud model")
        if self.steers_training:
            granted.append("control of the gradients that devices receive")
        if self.architecture:
            granted.append("the architecture of the front-end but not its weights")
        if self.weights:
            granted += ["queries", f"the weights of {front_end}"]
        elif self.queries:
            limited = knowledge is not None and not isinstance(knowledge.queries, bool)
            number = f"at most {knowledge.queries} " if knowledge and limited else ""
            granted.append(f"{number}queries to {front_end}")
        if knowledge is not None and knowledge.replays > 1 and self.reads_features:
            granted.append(f"{knowledge.replays} releases of each image, actively requested")
        if len(granted) == 1:
            return f"{granted[0]} only"
        return f"{', '.join(granted[:-1])} and {granted[-1]}"

    def _images(self, knowledge: "Knowledge | None") -> str:
        images = "labelled auxiliary images" if self.labels else "auxiliary images"
        if knowledge is not None and knowledge.auxiliary_data is not None:
            return f"images of another dataset ({knowledge.auxiliary_data.name})"
        if knowledge is not None and knowledge.auxiliary_classes == "disjoint_half":
            return f"{images} of other classes than the victims'"
        return images


class AuxiliaryData(Section):
    """Another dataset that the auxiliary images come from; resized to the run's image shape."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)
    path: str | None = None
    max_images: Annotated[int, Field(ge=10)] | None = Field(
        default=None, description="at most this many images; null takes as many as the run's part"
    )

    @model_validator(mode="after")
    def _known_dataset(self) -> Self:
        check_options(registries.DATASETS, self.name, self.options)
        try:
            registries.DATASETS.options(self.name, self.options)
        except ValidationError as error:
            raise below("options", error) from None
        return self


def _queries(given: Any) -> Any:
    """Accept true, false or a number that leaves images to train and to validate on."""
    if isinstance(given, int) and (isinstance(given, bool) or given >= MIN_QUERIES):
        return given
    raise ValueError(
        f"give true, false, or the maximum number of images to query ({MIN_QUERIES} or more), "
        f"got {given!r:.80}"
    )


class Knowledge(Section):
    """What an adversary is granted beyond its intercepts."""

    auxiliary_share: PositiveShare = Field(
        default=1.0, description="share of the auxiliary images it holds"
    )
    auxiliary_data: AuxiliaryData | None = Field(
        default=None, description="its auxiliary images are another dataset's, without labels"
    )
    auxiliary_classes: Literal["all", "disjoint_half"] = Field(
        default="all",
        description="'disjoint_half': it holds images of half of the classes, drawn by seed, and "
        "is scored on victims of the other half",
    )
    weights: bool = Field(default=True, description="the deployed front-end's weights")
    queries: Annotated[bool | int, BeforeValidator(_queries)] = Field(
        default=True,
        description="features of images that it chooses: true, false, or a maximum of images",
    )
    architecture: bool = Field(
        default=True, description="the architecture of the front-end, without its weights"
    )
    replays: Annotated[int, Field(ge=1, le=64)] = Field(
        default=1,
        description="releases of each victim's image, actively requested and averaged; they are "
        "added to the fleet's requests and not charged",
    )

    @model_validator(mode="after")
    def _weights_answer_queries(self) -> Self:
        if self.weights and self.queries is not True:
            raise ValueError(
                "queries are withheld or limited, but the granted weights allow queries to a copy "
                "of the front-end: set weights: false too"
            )
        if self.auxiliary_data is not None and self.auxiliary_classes != "all":
            raise ValueError(
                "auxiliary_classes are classes of the task, which auxiliary_data lacks"
            )
        return self


def grants(
    threat: ThreatModel, knowledge: Knowledge, holds_weights: bool, auxiliary_images: int
) -> dict[str, Any]:
    """Return the grants that an attack used, which may be fewer than its adversary holds.

    Any adversary with these grants can mount it. The conduct follows from the grants: an attack
    that steers deviates from the protocol, one that queries without the weights or requests replays
    is active, all others only read.

    Parameters
    ----------
    holds_weights : whether it can query a copy without limit.
    auxiliary_images : the number of images that it held.
    """
    asks_a_copy = threat.weights or (threat.queries and holds_weights)
    foreign = knowledge.auxiliary_data
    return {
        "weights": threat.weights,
        "queries": asks_a_copy or (threat.queries and knowledge.queries),
        "replays": knowledge.replays if threat.reads_features else 1,
        "auxiliary_data": foreign.name if foreign is not None else None,
        "auxiliary_classes": knowledge.auxiliary_classes,
        "auxiliary_images": auxiliary_images,
        "labels": threat.labels,
        "answers": threat.answers,
        "architecture": threat.architecture,
        "watches_training": threat.watches_training,
        "steers_training": threat.steers_training,
    }
