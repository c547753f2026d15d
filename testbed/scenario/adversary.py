"""An adversary of a scenario: where it reads, what it is granted, and the attack it mounts.

A scenario is refused before anything runs if an attack needs more than its adversary is granted.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from testbed.core import registries
from testbed.core.registry import nearest
from testbed.scenario.components import (
    AttackChoice,
    Name,
    PositiveShare,
    Section,
    Share,
    Strength,
    component,
)
from testbed.scenario.threat_model import MIN_QUERIES, Knowledge, ThreatModel
from testbed.scenario.training import TrainingSection

DEFAULT_ATTACK = "residual_decoder"


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
        description="one device of the fleet, drawn by seed, reveals its weights; its own "
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


class Adversary(Section):
    """Position, knowledge and the attack mounted with them."""

    name: Name
    position: Position = Position()
    knowledge: Knowledge = Knowledge()
    attack: AttackChoice = component(registries.ATTACKS, DEFAULT_ATTACK)
    transfer: bool = Field(
        default=False,
        description="apply what was learned on each tier to the intercepts of every other tier "
        "whose features have the same shape",
    )
    victims: Literal["serving", "training", "both"] = Field(
        default="serving",
        description="whose features it attacks: requests', training images' that the devices send "
        "while they train, or both; those of training images have results of their own",
    )
    training_rounds: list[int] = Field(
        default=[-1],
        min_length=1,
        max_length=8,
        description="rounds whose features of training images it attacks: from 1, or -1 for the "
        "last one, -2 for the one before; reconstructions of an image are averaged over them",
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
    def attacks_serving(self) -> bool:
        """Whether images of requests are its victims."""
        return self.victims != "training"

    @property
    def attacks_training(self) -> bool:
        """Whether training images are its victims."""
        return self.victims != "serving"

    def rounds_attacked(self, rounds: int) -> list[int]:
        """Return the rounds of training whose features it attacks, of ``rounds`` from 1 on."""
        chosen = (number if number > 0 else rounds + 1 + number for number in self.training_rounds)
        return sorted(set(chosen)) if self.attacks_training else []

    @property
    def learns_from(self) -> str | None:
        """The data that its success grows with, as the report names it; None for anchors."""
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
        """Return whether its attack can be mounted on a front-end, with or without its weights."""
        asks = holds_weights or self.knowledge.queries is not False
        return (holds_weights or not self.threat.weights) and (asks or not self.threat.queries)

    def refusal(self) -> str | None:
        """Return one sentence on what the attack needs and is not granted, or None."""
        needs, knowledge = self.threat, self.knowledge
        asks = needs.queries and not self.holds_weights
        withheld = (
            (
                needs.weights and not self.holds_weights,
                "the weights of the deployed front-end; grant knowledge.weights or "
                "position.colluding_device, or choose another attack",
            ),
            (
                asks and knowledge.queries is False,
                "query access to the deployed front-end; grant knowledge.queries, or choose a "
                "query-free attack",
            ),
            (
                needs.architecture and not knowledge.architecture,
                "the architecture of the front-end; grant knowledge.architecture, or choose "
                "another attack",
            ),
            (
                needs.labels and knowledge.auxiliary_data is not None,
                "auxiliary images labelled with the task's classes; knowledge.auxiliary_data has "
                "no such labels",
            ),
        )
        for is_withheld, need in withheld:
            if is_withheld:
                return f"adversaries.{self.name}: attack '{self.attack.name}' needs {need}"
        return self._comparison_refusal()

    def _comparison_refusal(self) -> str | None:
        where, attack = f"adversaries.{self.name}", f"attack '{self.attack.name}'"
        if self.transfer and (not self.rebuilds_images or self.threat == ThreatModel()):
            return f"{where}.transfer: {attack} learns no map from features to images"
        if not self.curve:
            return None
        if self.learns_from is None or not self.rebuilds_images:
            return (
                f"{where}.curve: {attack} does not rebuild images from what it learns of "
                "intercepts or queries, so that no amount can be varied"
            )
        if self.learns_from == "queries" and self.query_limit is not None:
            least = min(self.curve) * self.query_limit
            if least < MIN_QUERIES:
                return (
                    f"{where}.curve: {min(self.curve):g} of {self.query_limit} queries are "
                    f"{least:g}, and an attack needs {MIN_QUERIES}; raise the share or the queries"
                )
        return None


def with_preset(adversary: Any, strength: Strength) -> Any:
    """Return an adversary as written, with its attack's preset for options that it leaves out."""
    attack = adversary.get("attack", DEFAULT_ATTACK) if isinstance(adversary, dict) else None
    given = {"name": attack} if isinstance(attack, str) else attack
    if not isinstance(given, dict) or not isinstance(given.get("name"), str):
        return adversary
    try:
        factory: Any = registries.ATTACKS.entry(given["name"]).factory
    except ValueError:
        return adversary  # refused with the names of all attacks
    return adversary | {"attack": _merged(factory.presets.get(strength, {}), given)}


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested options, where those ``above`` count."""
    both = {
        key: _merged(below[key], value)
        for key, value in above.items()
        if isinstance(value, Mapping) and isinstance(below.get(key), Mapping)
    }
    return {**below, **above, **both}


def check_adversaries(adversaries: Sequence[Adversary], dataset: str) -> None:
    """Refuse adversaries whose attack needs what their threat model withholds.

    Parameters
    ----------
    dataset : the run's dataset, whose images can be victims.

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
                "dataset, so it contains the victims; name another one"
            )


def check_training_victims(adversaries: Sequence[Adversary], training: TrainingSection) -> None:
    """Refuse adversaries whose victims are training images where this cannot be.

    Raises
    ------
    ValueError : names the key, what is wrong and what is allowed.
    """
    rounds = training.fleet_rounds
    for adversary in adversaries:
        where = f"adversaries.{adversary.name}"
        if not adversary.attacks_training:
            if adversary.training_rounds != [-1]:
                raise ValueError(
                    f"{where}.training_rounds: its victims are requests; give 'victims: training' "
                    "or 'both' too"
                )
            continue
        if not rounds:
            raise ValueError(
                f"{where}.victims: '{adversary.victims}' needs training messages on the wire, and "
                "'training.protocol: provider' sends none; give 'victims: serving', 'protocol: "
                "split_federated' or fine_tune_rounds"
            )
        if not adversary.rebuilds_images:
            raise ValueError(
                f"{where}.victims: attack '{adversary.attack.name}' infers labels, which training "
                "messages carry in clear; give 'victims: serving', or an attack that rebuilds "
                "images"
            )
        if not adversary.attacks_serving and (adversary.transfer or adversary.curve):
            key = "transfer" if adversary.transfer else "curve"
            raise ValueError(
                f"{where}.{key}: it is measured on requests; give 'victims: serving' or 'both'"
            )
        for number in adversary.training_rounds:
            if not 1 <= abs(number) <= rounds:
                raise ValueError(
                    f"{where}.training_rounds: no round {number}; the fleet trains in {rounds}: "
                    f"give 1 to {rounds}, or -1 to -{rounds} from the last one"
                )


def check_training_attacks(
    adversaries: Sequence[Adversary], hijacked_by: Mapping[str, str | None], protocol: str
) -> None:
    """Refuse training-time attacks that cannot work, and arms whose hijacker cannot steer training.

    Parameters
    ----------
    hijacked_by : the adversary that steers each arm's training, by the arm's name.
    protocol : of the training.

    Raises
    ------
    ValueError : names the adversary or the arm, and what to do.
    """
    at_work = [item for item in adversaries if item.threat.watches_training]
    steering = [item.name for item in at_work if item.threat.steers_training]
    for adversary in at_work:
        where, attack = f"adversaries.{adversary.name}", f"attack '{adversary.attack.name}'"
        if adversary.position.tap != "cloud":
            raise ValueError(
                f"{where}.position.tap: {attack} runs in the cloud while the fleet trains; "
                f"give 'tap: cloud', not '{adversary.position.tap}'"
            )
        if protocol != "split_federated":
            raise ValueError(
                f"{where}: {attack} runs while devices train with the cloud; it needs "
                f"training.protocol: split_federated, not {protocol}"
            )
        if adversary.name in steering and adversary.name not in hijacked_by.values():
            raise ValueError(
                f"{where}: {attack} ruins the task of the arm that it steers; add an arm for it "
                f"with hijacked_by: {adversary.name}"
            )
    for arm, name in hijacked_by.items():
        if name is not None and name not in steering:
            raise ValueError(
                f"arms.{arm}.hijacked_by: no adversary '{name}' whose attack steers the training"
                f"{nearest(name, steering)}; those that do: {', '.join(steering) or 'none'}"
            )
