"""An adversary of a scenario: where it reads, what it is granted, and the attack it mounts.

What an attack needs is declared as data (``ThreatModel``) on its class, so that a scenario which
withholds it is refused before anything runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from testbed.core import registries
from testbed.scenario.components import (
    AttackChoice,
    Name,
    PositiveShare,
    Section,
    Share,
    check_options,
    component,
)

MIN_QUERIES = 20

Conduct = Literal["passive", "active", "malicious training"]
"""What an attacker does beside reading; the latter two leave traces that could be noticed."""


@dataclass(frozen=True)
class ThreatModel:
    """What an attack needs beside intercepted features and auxiliary images.

    Attributes
    ----------
    weights : the deployed front-end's weights; who holds them can query a copy at will.
    queries : features of images of its own choice.
    answers : the classes that the cloud sent back.
    labels : the task's classes of its auxiliary images.
    design : the front-end's architecture, though not its weights.
    learns_from_intercepts : its success depends on how many features it has intercepted.
    watches_training : it learns from the features that devices send while they train.
    steers_training : it also returns gradients of its own making to the devices.
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
        """Whether it looks at features at all; anchors do not."""
        return self.queries or self.learns_from_intercepts or self.watches_training

    def conduct(self, knowledge: "Knowledge | None" = None, holds_weights: bool = False) -> Conduct:
        """Return whether the attack only reads, also asks, or deviates from the training protocol.

        Parameters
        ----------
        knowledge : the adversary's; asking for replays is active.
        holds_weights : who has the weights asks a copy of its own, which nobody can see.
        """
        if self.steers_training:
            return "malicious training"
        asks = self.queries and not (self.weights or holds_weights)
        replays = knowledge is not None and knowledge.replays > 1
        return "active" if asks or (replays and self.reads_features) else "passive"

    def words(self, knowledge: "Knowledge | None" = None) -> str:
        """Return the threat model as part of a sentence.

        Parameters
        ----------
        knowledge : the adversary's, where its own images, queries or replays are special.
        """
        granted = [self._images(knowledge)]
        if self.answers:
            granted.append("the answers sent back")
        if self.learns_from_intercepts:
            granted.append("all features it intercepted")
        if self.watches_training:
            granted.append("all features that devices sent in training, and the cloud model")
        if self.steers_training:
            granted.append("the gradients that devices get, to make as it likes")
        if self.architecture:
            granted.append("the architecture of the front-end but not its weights")
        if self.weights:
            granted += ["queries", "the weights of the deployed front-end"]
        elif self.queries:
            limited = knowledge is not None and not isinstance(knowledge.queries, bool)
            number = f"at most {knowledge.queries} " if knowledge and limited else ""
            granted.append(f"{number}queries to the deployed front-end")
        if knowledge is not None and knowledge.replays > 1 and self.reads_features:
            granted.append(f"{knowledge.replays} releases of each image, actively asked for")
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


class Position(Section):
    """Where an adversary reads: device links, one access point, or the cloud itself."""

    tap: Literal["links", "access_point", "cloud"] = Field(
        default="links",
        description="'access_point': everything on one WiFi access point, drawn by seed "
        "(needs fleet.devices_per_access_point)",
    )
    share_of_links: PositiveShare = Field(
        default=1.0, description="share of the devices whose link is read; the cloud sees all"
    )
    links_by_type: dict[str, Share] | None = Field(
        default=None,
        min_length=1,
        description="share of the links of each type instead; types that are not named stay unread",
    )
    colluding_device: bool = Field(
        default=False,
        description="one device of the fleet, drawn by seed, gives its weights away; its own "
        "requests are not attacked",
    )

    @model_validator(mode="after")
    def _only_links_have_shares(self) -> Self:
        if self.tap != "links" and (self.share_of_links != 1.0 or self.links_by_type is not None):
            raise ValueError(
                "share_of_links and links_by_type apply to 'tap: links'; "
                f"'tap: {self.tap}' reads everything there"
            )
        if self.links_by_type is not None and self.share_of_links != 1.0:
            raise ValueError("give either share_of_links or links_by_type")
        if self.links_by_type is not None and not any(self.links_by_type.values()):
            raise ValueError("links_by_type must name a type with a share above 0")
        return self

    def words(self) -> str:
        """Return the position as the report names it."""
        if self.tap == "cloud":
            read = "cloud"
        elif self.tap == "access_point":
            read = "one access point"
        elif self.links_by_type is not None:
            shares = ", ".join(
                f"{share:.0%} of {name}" for name, share in self.links_by_type.items()
            )
            read = f"links by type: {shares}"
        else:
            read = f"{self.share_of_links:.0%} of the links"
        return f"{read}, and one colluding device" if self.colluding_device else read


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
        registries.DATASETS.options(self.name, self.options)
        return self


def _queries(given: Any) -> Any:
    """Accept true, false or a number that leaves images to train and to validate on."""
    if isinstance(given, int) and (isinstance(given, bool) or given >= MIN_QUERIES):
        return given
    raise ValueError(
        f"give true, false, or how many images may be queried at most ({MIN_QUERIES} or more), "
        f"got {given!r:.80}"
    )


class Knowledge(Section):
    """What an adversary is granted beside its intercepts."""

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
        description="features of images of its choice: true, false, or at most so many images",
    )
    architecture: bool = Field(
        default=True, description="the architecture of the front-end, without its weights"
    )
    replays: Annotated[int, Field(ge=1, le=64)] = Field(
        default=1,
        description="releases of each victim's image, asked for actively and averaged; they are "
        "beside the fleet's requests and not charged",
    )

    @model_validator(mode="after")
    def _weights_answer_queries(self) -> Self:
        if self.weights and self.queries is not True:
            raise ValueError(
                "queries are withheld or limited, but whoever holds the weights can query a copy "
                "of the front-end: set weights: false too"
            )
        if self.auxiliary_data is not None and self.auxiliary_classes != "all":
            raise ValueError("auxiliary_classes are the task's; auxiliary_data has none of them")
        return self


class Adversary(Section):
    """Position, knowledge and the attack mounted with them."""

    name: Name
    position: Position = Position()
    knowledge: Knowledge = Knowledge()
    attack: AttackChoice = component(registries.ATTACKS, "residual_decoder")
    transfer: bool = Field(
        default=False,
        description="apply what was learned on each tier to the intercepts of every other tier "
        "whose features have the same shape",
    )
    curve: list[Annotated[float, Field(gt=0.0, lt=1.0)]] = Field(
        default=[],
        max_length=8,
        description="mount the attack again with these shares of what it learns from (intercepts, "
        "queries or auxiliary images), scored on the same victims",
    )

    @property
    def holds_weights(self) -> bool:
        """Whether it has the weights, by grant or from the colluding device."""
        return self.knowledge.weights or self.position.colluding_device

    @property
    def threat(self) -> ThreatModel:
        """What its attack needs."""
        declared: ThreatModel = registries.ATTACKS.entry(self.attack.name).factory.threat  # type: ignore[attr-defined]
        return declared

    @property
    def query_limit(self) -> int | None:
        """How many images it may query in all, or None without a limit."""
        queries = self.knowledge.queries
        return None if isinstance(queries, bool) else queries

    @property
    def learns_from(self) -> str | None:
        """What its success grows with, as the report names it; None for attacks like anchors."""
        if self.threat.learns_from_intercepts:
            return "intercepts"
        if not self.threat.queries:
            return None
        asks_only = self.query_limit is not None and not self.holds_weights
        return "queries" if asks_only else "auxiliary images"

    @property
    def rebuilds_images(self) -> bool:
        """Whether its attack rebuilds images, rather than inferring something about them."""
        return bool(registries.ATTACKS.entry(self.attack.name).factory.rebuilds_images)  # type: ignore[attr-defined]

    def can_attack(self, holds_weights: bool) -> bool:
        """Return whether its attack can be mounted on a front-end whose weights it has, or not."""
        asks = holds_weights or self.knowledge.queries is not False
        return (holds_weights or not self.threat.weights) and (asks or not self.threat.queries)

    def refusal(self) -> str | None:
        """Return one sentence on what the attack needs and is not granted, or None."""
        needs, knowledge, where = self.threat, self.knowledge, f"adversaries.{self.name}"
        if needs.weights and not self.holds_weights:
            return (
                f"{where}: attack '{self.attack.name}' needs the weights of the deployed front-end;"
                " grant knowledge.weights or position.colluding_device, or choose another attack"
            )
        if needs.queries and not self.holds_weights and knowledge.queries is False:
            return (
                f"{where}: attack '{self.attack.name}' needs query access to the deployed "
                "front-end; grant knowledge.queries, or choose a query-free attack"
            )
        if needs.architecture and not knowledge.architecture:
            return (
                f"{where}: attack '{self.attack.name}' needs the architecture of the front-end; "
                "grant knowledge.architecture, or choose another attack"
            )
        if needs.labels and knowledge.auxiliary_data is not None:
            return (
                f"{where}: attack '{self.attack.name}' needs auxiliary images labelled with the "
                "task's classes; knowledge.auxiliary_data has none"
            )
        return self._comparison_refusal()

    def _comparison_refusal(self) -> str | None:
        where, attack = f"adversaries.{self.name}", f"attack '{self.attack.name}'"
        if self.transfer and (not self.rebuilds_images or self.threat == ThreatModel()):
            return f"{where}.transfer: {attack} learns no way from features to images to transfer"
        if not self.curve:
            return None
        if self.learns_from is None or not self.rebuilds_images:
            return (
                f"{where}.curve: {attack} does not rebuild images from what it learns of "
                "intercepts or queries, so there is no amount to vary"
            )
        if self.learns_from == "queries" and self.query_limit is not None:
            least = min(self.curve) * self.query_limit
            if least < MIN_QUERIES:
                return (
                    f"{where}.curve: {min(self.curve):g} of {self.query_limit} queries are "
                    f"{least:g}, and an attack needs {MIN_QUERIES}; raise the share or the queries"
                )
        return None


def check_adversaries(adversaries: Sequence[Adversary], dataset: str) -> None:
    """Refuse adversaries whose attack needs what their threat model withholds.

    Parameters
    ----------
    dataset : the run's, whose images can be victims.

    Raises
    ------
    ValueError : names the adversary, what is missing and what to do.
    """
    for adversary in adversaries:
        refused = adversary.refusal()
        if refused is not None:
            raise ValueError(refused)
        other = adversary.knowledge.auxiliary_data
        if other is not None and other.name == dataset and other.path is None:
            raise ValueError(
                f"adversaries.{adversary.name}.knowledge.auxiliary_data: '{dataset}' is the run's "
                "own dataset, so it holds the victims; name another one"
            )
