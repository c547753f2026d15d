"""The typed form of ``results.json`` (docs/results.md, schema version 1).

The engine constructs these classes, and the readers of a results folder get them back. A key is
written if and only if its field was set: fields with a default may be absent, and say when. An
unknown number is null. Readers ignore unknown keys, so that results with more keys of the same
schema version stay readable.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model

from testbed.privacy.intervals import Interval
from testbed.results.choice import Rule, best_of, rule_of
from testbed.results.figures import SCORES

SCHEMA_VERSION = 3
MEAN_IMAGE = "mean_image"
"""The anchor that shows the mean image for every victim."""


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


# Names become file names of image rows, so they are held to the scenario's own pattern.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=64)]
Number = Annotated[float | None, BeforeValidator(_finite)]
"""Null where it is unknown, does not apply or is not finite."""
Count = Annotated[int, Field(ge=0)]


class Part(BaseModel):
    """Base of every part of the results: read-only."""

    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)

    def tree(self) -> dict[str, Any]:
        """Return what is written as JSON."""
        return self.model_dump(by_alias=True, exclude_unset=True)


# Leakage and attacks ------------------------------------------------------------------------------


class InformationBound(Part):
    """A lower bound on the information that features carry about images."""

    nats: Number
    ceiling_nats: Number = Field(description="the estimator's largest value; null: no limit")
    held_out: Count = Field(description="pairs that the bound is evaluated on")
    reason: str = Field(
        description="why there is no bound, a critic that failed included; empty where there is one"
    )
    saturated: bool = Field(
        default=False,
        description="whether the bound is near its ceiling, where it hardly tells features apart",
    )


class Information(Part):
    """Bounds by three estimators, trained on pairs of an image and its features."""

    pairs: Count
    mine: InformationBound
    mine_bounded: InformationBound
    infonce: InformationBound


class Leakage(Part):
    """Measures on the released features, without an attack."""

    channels: Count
    samples: Count
    live_channels: Count | None
    participation_ratio: Number
    spectral_rank: Number
    dcor_v: Number = Field(description="distance correlation squared, V-statistic")
    dcor_u: Number = Field(description="distance correlation squared, bias-corrected")
    hsic: Number = Field(description="normalised")
    mean_abs_feature: Number
    nonzero_per_sample: Number
    information: Information | None = Field(
        description="null unless `evaluation.mutual_information` is set"
    )


P = TypeVar("P", bound=Part)


def _with_intervals(names: Iterable[str]) -> Callable[[type[P]], type[P]]:
    """Add an interval of each name to a class: what :mod:`testbed.results.figures` declares."""

    def complete(part: type[P]) -> type[P]:
        fields: Any = {name: (Interval, Interval()) for name in names}
        return create_model(
            part.__name__, __base__=part, __module__=part.__module__, __doc__=part.__doc__, **fields
        )

    return complete


@_with_intervals(score.key for score in SCORES)
class Scores(Part):
    """Every declared score of some reconstructions; an empty interval where one was not taken."""

    mse: Interval = Interval()

    def __getitem__(self, key: str) -> Interval:
        """Return a score by its key."""
        score: Interval = getattr(self, key)
        return score


class CurvePoint(Part):
    """One epoch of an attack's training."""

    epoch: int
    training_mse: Number
    validation_mse: Number


class _OnClass(Part):
    device_class: str
    victims: Count


class AttackOnClass(Scores, _OnClass):
    """Scores of one attack on the victims of one device class."""


class _OnLink(Part):
    link: str
    victims: Count


class AttackOnLink(Scores, _OnLink):
    """Scores of one attack on the victims behind one type of link."""


class _OnTier(Part):
    tier: str
    victims: Count


class AttackOnTier(Scores, _OnTier):
    """Scores of one attack on the victims of one tier, and the training on it."""

    validation_mse: Number = Field(
        default=None, description="on the attacker's validation images; null where none was taken"
    )

    best_epoch: int | None
    reached_plateau: bool | None
    training_curve: list[CurvePoint]


class Extreme(Part):
    """The best, median or worst reconstruction of an attack by MSE."""

    rank: Literal["best", "median", "worst"]
    mse: float
    ssim: float


class InferenceScores(Part):
    """Success of an attack that infers classes and persons, beside chance."""

    class_: Annotated[Interval, Field(alias="class")]
    majority_class: float = Field(description="share of the most frequent class: a blind guess")
    same_person: Interval | None = Field(description="null where no victim shows a person twice")
    chance_same_person: Number


class BoundCheck(Part):
    """An attack's error on the smoothed victims of a tier, for which an error bound holds."""

    tier: str
    mse: float
    standard_error: Number
    images: Count


class _TierPair(Part):
    trained_on: str
    applied_to: str
    victims: Count
    reason: str = Field(description="why there are no scores; empty where there are")
    smoothed: list[BoundCheck] = Field(description="on smoothed victims of the tier applied to")


class Transfer(Scores, _TierPair):
    """An attack trained on one tier and applied to the victims of another."""


class _Amount(Part):
    share: float
    amount: Count
    queries: Count
    smoothed: list[BoundCheck]


class AmountPoint(Scores, _Amount):
    """An attack mounted with a share of what it learns from."""


class AmountCurve(Part):
    """Success against the amount that an attack learns from, on the same victims."""

    unit: str = Field(description="`intercepts`, `queries` or `auxiliary images`")
    victims: Count
    points: list[AmountPoint]


class Grants(Part):
    """What an attack used beside its intercepts, not all that its adversary holds."""

    weights: bool
    queries: bool | int = Field(description="false, true, or at most this many images")
    replays: int = Field(description="releases of each victim's image that were averaged")
    auxiliary_data: str | None = Field(
        description="dataset of the adversary's images; null: the run's own"
    )
    auxiliary_classes: str = Field(description="`all` or `disjoint_half`")
    auxiliary_images: Count = Field(description="how many images the adversary held")
    labels: bool
    answers: bool
    architecture: bool
    watches_training: bool
    steers_training: bool


class _AttackFacts(Part):
    adversary: Name
    attack: Name
    position: str = Field(description="where the adversary reads, in words")
    worse_than_mean_image: bool
    replays: Count
    grants: Grants
    smoothed: list[BoundCheck]
    transfer: list[Transfer] = Field(description="empty unless `transfer` is set")
    by_amount: AmountCurve | None = Field(
        description="null unless the adversary asks for a `curve`"
    )


class AttackScores(Part):
    """Everything about an attack that follows from its reconstructions."""

    is_anchor: bool
    rebuilds_images: bool
    learns_from_intercepts: bool
    threat_model: str = Field(description="in words")
    conduct: str = Field(description="`passive`, `active` or `malicious training`")
    victims: Count
    queries: Count = Field(description="images that the attack asked for")
    scores: Scores
    pool_size: Count = Field(description="images among which re-identification chooses")
    chance_reidentification: float
    body_parameters: Count | None
    adapter_parameters: Count | None
    best_epoch: int | None
    reached_plateau: bool | None = Field(
        description="whether its training ended on a plateau of the validation error on every "
        "tier, not at its limit of epochs; null for attacks that do not train until a plateau"
    )
    training_curve: list[CurvePoint] = Field(description="of the tier with most victims")
    validation_mse: Number = Field(
        default=None,
        description="its MSE on the attacker's validation images, the mean over victims of that on "
        "their tiers; null where it was not measured: without queries, and in older results",
    )
    extremes: list[Extreme]
    class_on_originals: Number = Field(description="`class_recovered` of the images themselves")
    inferred: InferenceScores | None
    by_device_class: list[AttackOnClass]
    by_link: list[AttackOnLink]
    by_tier: list[AttackOnTier]


class AttackResult(AttackScores, _AttackFacts):
    """One attack, or one anchor, of one adversary on one arm."""

    raw_requests: Count = Field(description="raw images that the adversary read")

    @property
    def mse(self) -> float | None:
        """Mean squared error per element, by which attacks are ranked."""
        return self.scores.mse.value


def rebuilding(attacks: Sequence[AttackResult]) -> list[AttackResult]:
    """Return the attacks that rebuilt images, without the anchors."""
    return [
        attack
        for attack in attacks
        if not attack.is_anchor and attack.rebuilds_images and attack.mse is not None
    ]


class TrainingVictim(Part):
    """A training image that was attacked, with the error of its mean reconstruction."""

    victim: Count = Field(description="number of the image in the order drawn by the seed")
    device: Count = Field(description="the first that sent it")
    label: Count
    releases: Count = Field(description="steps in which it was sent; reconstructions are averaged")
    mse: float
    reidentified: bool


class AttackOnTraining(Part):
    """One attack, or one anchor, of one adversary on training images of one arm.

    Its victims are other images than the requests': never compare it with `attacks`. No error
    bound holds for them, since the front-end changed in every round.
    """

    rounds: list[int] = Field(description="rounds of training whose features were attacked")
    sent_images: Count = Field(
        description="different images that the adversary read in these rounds; its victims are up "
        "to 256 of them, drawn by the seed"
    )
    releases: Count = Field(description="features of the victims that were attacked")
    by_victim: list[TrainingVictim]
    result: AttackResult = Field(description="as in `attacks`, for these victims")


def training_samples(arm: str, attack: AttackResult) -> tuple[str, str]:
    """Return the names of the originals and of the reconstructions of training images."""
    original = f"training/original/{arm}/{attack.adversary}"
    return original, f"training/{arm}/{attack.adversary}/{attack.attack}"


class BoundLevel(Part):
    """The error bound on means over a number of releases, and the estimates it comes from."""

    mse: Number = Field(
        description="the error bound: the better of the lower confidence limits; null where none "
        "was computed"
    )
    dfil: Number = Field(description="the estimate")
    dfil_lower: Number = Field(description="its lower confidence limit")
    spectrum: Number = Field(description="the estimate")
    spectrum_lower: Number = Field(description="its lower confidence limit")
    noise_free: Number = Field(description="of a release without additive noise")
    cem_relative: Number = Field(
        description="exp(-2I/d), which bounds no error; null where it has no meaning"
    )
    replays: Count


class ErrorBound(Part):
    """The reconstruction error that no attack can beat on one tier."""

    tier: str
    reason: str = Field(description="why the bound is 0 or was not computed; empty above 0")
    noise_std: Number
    points: Count = Field(description="smoothed victims that the bound is estimated on")
    confidence: Number = Field(
        description="one-sided, over the choice of points, that `mse` of a level does not exceed "
        "the bound that it estimates; null without additive noise"
    )
    levels: list[BoundLevel]


class Hijack(Part):
    """The adversary that steered the training of an arm, and what devices could notice.

    A label gap is the mean cosine between gradients of one class minus that between classes.
    """

    adversary: str
    attack: str
    honest_arm: str | None = Field(description="the same arm without the adversary")
    label_gap_honest: Number
    label_gap_sent: Number
    batches: Count


@_with_intervals(score.column for score in SCORES if "differences" in score.places)
class Differences(Part):
    """Paired differences of scores, by column of attacks.parquet, with hierarchical intervals."""


class ArmComparison(Part):
    """An arm minus the first one, by one adversary's best attacks, over shared requests."""

    arm: str
    reference: str
    adversary: str
    attack: str
    reference_attack: str
    victims: Count
    devices: Count
    difference: Differences


# Arms ---------------------------------------------------------------------------------------------


class Edge(Part):
    """The front-end on the device, with the layers that a defence deploys; sizes are per image."""

    parameters: Count
    macs: Count = Field(description="multiply-accumulates")
    peak_activation_elements: Count
    feature_shape: list[int]
    feature_bytes: Count = Field(
        description="mean size of the arrays that travel for an image, as the defence encodes "
        "them; the message around them counts in `uplink_bytes` only"
    )
    weight_bytes: Count


class Cloud(Part):
    """The cloud model."""

    parameters: Count
    macs: Count


class Installed(Part):
    """What runs on the devices and in the cloud for them."""

    front_end: str
    defence: str
    precision: str
    edge: Edge
    cloud: Cloud
    release: dict[str, int | float | None] = Field(
        description="what the defence reports of its release, by name with unit (docs/defences.md)"
        "; null where infinite"
    )


class Accuracy(Part):
    """Share of correct answers."""

    test: Interval | None = Field(description="of the answered requests; null where there are none")
    final_validation: Number = Field(description="of the weights that are deployed")
    best_validation: Number


class ProviderTraining(Part):
    """Training at the service provider, before anything is deployed."""

    epochs: Count
    deployed_epoch: Count
    images: Count


class Training(Part):
    """Totals over all rounds; counts are device-rounds."""

    protocol: Literal["split_federated", "provider"]
    provider: ProviderTraining | None
    rounds: Count = Field(description="rounds of the fleet")
    virtual_s: float = Field(description="time of all rounds; waits for devices that are offline")
    uplink_bytes: Count
    downlink_bytes: Count
    energy_j: float = Field(
        description="above idle, of the devices whose power is known: computing, sending, "
        "receiving, and radios waking up and staying awake, as in serving"
    )
    energy_unknown_devices: Count
    wake_tail_j: float = Field(description="the radios' part of `energy_j`")
    idle_j: float = Field(
        description="not in `energy_j`: idle power of the devices during their rounds, from the "
        "round's first message to their own last reply, while they compute, transfer or wait"
    )
    idle_unknown_devices: Count = Field(
        description="devices that took part and whose idle power is unpublished"
    )
    participations: Count
    stragglers: Count
    offline: Count
    infeasible: Count = Field(description="devices, not device-rounds")
    failed: Count
    unused: Count = Field(description="updates that were too few for `training.strategy`")


class Latency(Part):
    """Quantiles over the answered requests, milliseconds."""

    median: Number
    p95: Number
    p99: Number


class LatencyParts(Part):
    """Means over the answered requests, milliseconds."""

    compute: Number
    uplink: Number
    queue: Number
    cloud: Number
    downlink: Number


class CloudCost(Part):
    """US dollars of server time for 1,000 answers, without data traffic, storage and training."""

    busy: Number = Field(description="time in service only")
    provisioned: Number = Field(description="idle time too, shared equally")


class ServingCloud(Part):
    """The cloud that answered."""

    device: str
    servers: Count
    max_batch: Count
    batch_window_ms: float
    service: str
    service_ms: dict[str, list[float]] = Field(description="by tier, by number of requests")
    front_end_ms: dict[str, list[float]] = Field(description="by tier, by number of raw images")
    price_usd_per_hour: Number
    batches: Count
    span_s: float = Field(description="from the first arrival to the end of the last service")


class ServedPart(Part):
    """Requests of the whole fleet, of one tier or of one device class."""

    requests: Count
    answered: Count
    unanswered: Count
    offloaded_raw: Count = Field(
        description="answered requests that were sent as raw images (`fleet.infeasible: "
        "offload_raw`)"
    )
    deadline_misses: Count
    deadline_miss_share: Number = Field(description="of the answered requests")
    latency_ms: Latency
    energy_mj_per_request: Number = Field(
        description="over requests whose energy is known: `work_mj_per_request` and the radio's "
        "waking up and staying awake"
    )
    work_mj_per_request: Number = Field(description="computing, sending and receiving")
    wake_tail_mj_per_request: Number = Field(
        description="the radio's part, over all requests for which it is known"
    )
    energy_unknown_devices: Count
    uplink_bytes_per_request: Number = Field(
        description="features or image, with the acknowledgement of the answer"
    )
    cloud_utilisation: float = Field(description="the part's share of the time of all servers")
    mean_batch: Number
    cost_usd_per_1000: CloudCost


class Serving(ServedPart):
    """The requests of all victims."""

    offline: Count
    infeasible: Count
    failed: Count
    latency_parts_ms: LatencyParts
    downlink_bytes_per_request: Number
    cloud: ServingCloud


class _ClassFacts(Part):
    device_class: str
    devices: Count
    infeasible_training: Count
    infeasible_serving: Count


class ArmOnClass(ServedPart, _ClassFacts):
    """One arm on the devices of one class."""

    accuracy: Interval | None
    edge_compute_ms: Number
    stragglers: Count
    offline: Count
    participations: Count


class _TierFacts(Part):
    tier: str
    devices: Count
    device_classes: list[str]


class _TierFeasibility(Part):
    infeasible_training: Count
    infeasible_serving: Count


class TierResult(ServedPart, _TierFeasibility, Installed, _TierFacts):
    """One arm on the devices of one tier."""

    accuracy: Interval | None
    leakage: Leakage


class _ArmFacts(Part):
    name: Name


class ArmResult(Installed, _ArmFacts):
    """Everything measured of one arm; what is installed is that of its main tier."""

    cloud_model: str
    accuracy: Accuracy
    training: Training
    serving: Serving
    leakage: Leakage
    tiers: list[TierResult]
    by_device_class: list[ArmOnClass]
    attacks: list[AttackResult]
    hijack: Hijack | None
    errors: list[str] = Field(description="distinct failures of devices, at most 20")
    error_bounds: list[ErrorBound]
    training_attacks: list[AttackOnTraining] = Field(
        default=[], description="absent unless an adversary's `victims` are training images"
    )

    best_mse: Interval | None = Field(
        default=None,
        description="MSE of the best attack where it is the lowest one on the victims, with an "
        "interval that covers the choice; null where it was chosen on validation images",
    )

    @property
    def rebuilding(self) -> list[AttackResult]:
        """The attacks that rebuilt images, without the anchors."""
        return rebuilding(self.attacks)

    def best_attack(self, adversary: str | None = None) -> AttackResult | None:
        """Return the best attack, of one adversary or of all; ``choice`` says which one that is."""
        return best_of([item for item in self.rebuilding if adversary in (None, item.adversary)])

    @property
    def best(self) -> AttackResult | None:
        """The best attack of all adversaries, with an interval that covers the choice."""
        attack = self.best_attack()
        if attack is None or self.best_mse is None:
            return attack
        scores = attack.scores.model_copy(update={"mse": self.best_mse})
        return attack.model_copy(update={"scores": scores})

    @property
    def chosen_by(self) -> Rule:
        """By which error the best attack was chosen."""
        return rule_of(self.rebuilding)

    @property
    def best_on_training(self) -> AttackOnTraining | None:
        """The best attack on training images, of all adversaries."""
        attacks = [
            item
            for item in self.training_attacks
            if not item.result.is_anchor and item.result.mse is not None
        ]
        best = best_of([item.result for item in attacks])
        return next((item for item in attacks if item.result is best), None)

    @property
    def mean_image_mse(self) -> float | None:
        """MSE of the mean image on the victims of the best attack."""
        adversary = self.best.adversary if self.best else None
        return next(
            (
                anchor.mse
                for anchor in self.attacks
                if anchor.attack == MEAN_IMAGE and anchor.adversary == adversary
            ),
            None,
        )


# The run ------------------------------------------------------------------------------------------


class ScenarioFacts(Part):
    """Which scenario was run."""

    name: str
    seed: int
    description: str


class ImageCounts(Part):
    """Images in each of the five disjoint parts."""

    training: Count
    validation: Count
    auxiliary: Count
    auxiliary_validation: Count
    victims: Count


class DataFacts(Part):
    """The images of the run."""

    name: str
    image_shape: list[int] = Field(description="C, H, W")
    num_classes: Count
    label_names: list[str]
    has_persons: bool = Field(description="whether the images are split by person")
    source: str
    notes: list[str] = Field(description="how the files were read and split")
    images: ImageCounts
    majority_class_accuracy: float = Field(description="of the most frequent class")
    serving_images: str = Field(description="`own` or `uniform`: how devices get their victims")
    victims_of_own_classes: float = Field(
        description="share of victims of a class that their device has in its training images"
    )


class FleetClass(Part):
    """Devices of one class in the fleet."""

    device_class: str
    devices: Count
    models: dict[str, int] = Field(description="devices by model")
    links: dict[str, int] = Field(description="devices by type of link")


class FleetFacts(Part):
    """The devices of the run."""

    size: Count
    device_classes: list[FleetClass]


class SelfCheck(Part):
    """A property that the run verified about itself."""

    name: str
    passed: bool
    detail: str


class Summary(Part):
    """The whole of ``results.json``."""

    schema_version: int
    status: Literal["complete", "interrupted"]
    testbed_version: str
    warnings: list[str] = Field(description="what the terminal and the report warn about")
    scenario: ScenarioFacts
    data: DataFacts
    fleet: FleetFacts
    arms: list[ArmResult] = Field(description="the finished arms, in the order of the scenario")
    comparisons: list[ArmComparison]
    self_checks: list[SelfCheck]
