"""The typed form of ``results.json`` (docs/results.md, schema version 1).

Every number may be ``None``: unknown, or not reached because the run was interrupted. Keys that
are not listed here are ignored, so that a newer run of the same schema version stays readable.
"""

from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, create_model

from testbed.results.figures import SCORES

SCHEMA_VERSION = 1
MEAN_IMAGE = "mean_image"
"""The anchor that shows the mean image for every victim."""

# Names become file names of strips, so what is read back is held to the scenario's own pattern.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=64)]
Number = Annotated[float, Field(allow_inf_nan=False)] | None
Count = Annotated[int, Field(ge=0)] | None


class Part(BaseModel):
    """Base of every part of the results: read-only."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Interval(Part):
    """A bootstrap 95 % interval over ``n`` victims."""

    value: Number = None
    low: Number = None
    high: Number = None
    n: Count = None


class InformationBound(Part):
    """A lower bound on the information of images and features; ``reason`` says why there is none.

    The ceiling is what the estimator reaches at most, null where it has none.
    """

    nats: Number = None
    ceiling_nats: Number = None
    held_out: Count = None
    reason: str = ""


class Information(Part):
    """The trained bounds on the information, on so many pairs of an image and its features."""

    pairs: Count = None
    mine: InformationBound = InformationBound()
    mine_bounded: InformationBound = InformationBound()
    infonce: InformationBound = InformationBound()


class Leakage(Part):
    """Attack-free measures on the released features."""

    channels: Count = None
    live_channels: Count = None
    participation_ratio: Number = None
    spectral_rank: Number = None
    dcor_v: Number = None
    dcor_u: Number = None
    hsic: Number = None
    mean_abs_feature: Number = None
    nonzero_per_sample: Number = None
    samples: Count = None
    information: Information | None = None


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
    training_mse: Number = None
    validation_mse: Number = None


class _OnClass(Part):
    device_class: str
    victims: Count = None


class AttackOnClass(Scores, _OnClass):
    """Scores of one attack on the victims of one device class."""


class _OnTier(Part):
    tier: str
    victims: Count = None


class AttackOnTier(Scores, _OnTier):
    """Scores of one attack on the victims of one tier."""

    best_epoch: int | None = None
    reached_plateau: bool | None = None
    curve: list[CurvePoint] = Field(default=[])


class _OnLink(Part):
    link: str
    victims: Count = None


class AttackOnLink(Scores, _OnLink):
    """Scores of one attack on the victims behind one type of link."""


class Extreme(Part):
    """The best, median or worst reconstruction of an attack."""

    rank: str
    mse: Number = None
    ssim: Number = None


class Inferred(Part):
    """What an attack said of classes and persons, beside chance."""

    class_: Annotated[Interval | None, Field(alias="class")] = None
    majority_class: Number = None
    same_person: Interval | None = None
    chance_same_person: Number = None


class BoundCheck(Part):
    """An attack's error on the smoothed victims of a tier, which an error bound holds for."""

    tier: str
    mse: Number = None


class _TierPair(Part):
    trained_on: str
    applied_to: str
    victims: Count = None
    reason: str = ""
    smoothed: list[BoundCheck] = Field(default=[])


class Transfer(Scores, _TierPair):
    """An attack trained on one tier, on the victims of another; ``reason`` where it cannot be."""


class _Amount(Part):
    share: Number = None
    amount: Count = None
    queries: Count = None
    smoothed: list[BoundCheck] = Field(default=[])


class AmountPoint(Scores, _Amount):
    """An attack with a share of what it learns from."""


class AmountCurve(Part):
    """Success against the amount intercepted, queried or owned, on the same victims."""

    unit: str
    victims: Count = None
    points: list[AmountPoint] = Field(default=[])


class Grants(Part):
    """What an attack used beside its intercepts; whoever is granted as much can mount it."""

    weights: bool = False
    queries: bool | int = Field(
        default=False, description="none, without a limit, or at most so many images"
    )
    replays: int = Field(default=1, description="releases of each victim's image, averaged")
    auxiliary_data: str | None = Field(
        default=None, description="dataset of its own images, null for the run's"
    )
    auxiliary_classes: str = Field(default="all", description="all, or disjoint_half")
    auxiliary_images: int = Field(default=0, description="how many images of its own it held")
    labels: bool = False
    answers: bool = False
    architecture: bool = False
    watches_training: bool = False
    steers_training: bool = False


class AttackResult(Part):
    """One attack of one adversary on one arm."""

    adversary: Name
    attack: Name
    is_anchor: bool
    rebuilds_images: bool = True
    learns_from_intercepts: bool = False
    threat_model: str = ""
    conduct: str = ""
    grants: Grants | None = Field(
        default=None, description="null in results written before grants were recorded as data"
    )
    replays: Count = None
    position: Any = None
    victims: Count = None
    raw_requests: Count = None
    scores: Scores = Scores()
    pool_size: Count = None
    chance_reidentification: Number = None
    worse_than_mean_image: bool | None = None
    body_parameters: Count = None
    best_epoch: int | None = None
    reached_plateau: bool | None = Field(
        default=None,
        description="whether its training ended on a plateau on every tier, not at its limit of "
        "epochs; null for attacks that do not train until one, and in older results",
    )
    curve: list[CurvePoint] = Field(default=[])
    queries: Count = None
    extremes: list[Extreme] = Field(default=[])
    smoothed: list[BoundCheck] = Field(default=[])
    transfer: list[Transfer] = Field(default=[])
    by_amount: AmountCurve | None = None
    class_on_originals: Number = None
    inferred: Inferred | None = None
    by_link: list[AttackOnLink] = Field(default=[])
    by_device_class: list[AttackOnClass] = Field(default=[])
    by_tier: list[AttackOnTier] = Field(default=[])

    @property
    def mse(self) -> float | None:
        """Mean squared error per element, by which attacks are ranked."""
        return self.scores.mse.value


class BoundLevel(Part):
    """The bound on the MSE for means over so many releases, and the estimates that it is made of.

    ``mse`` is null where no bound was computed, and else three standard errors below an estimate.
    """

    mse: Number = None
    dfil: Number = None
    dfil_error: Number = None
    spectrum: Number = None
    spectrum_error: Number = None
    noise_free: Number = None
    cem_relative: Number = None
    replays: Count = None


class Hijack(Part):
    """Who steered an arm's training, an honest arm beside it, and what devices could notice.

    A label gap is the mean cosine between gradients of one class minus that between classes.
    """

    adversary: str
    attack: str
    honest_arm: str | None = None
    label_gap_honest: Number = None
    label_gap_sent: Number = None
    batches: Count = None


class ErrorBound(Part):
    """What is guaranteed of a tier of an arm; ``reason`` says in words why there is nothing."""

    tier: str = ""
    reason: str = ""
    levels: list[BoundLevel] = Field(default=[])


@_with_intervals(score.column for score in SCORES if "differences" in score.places)
class Differences(Part):
    """Paired differences of scores, by column of attacks.parquet, with hierarchical intervals."""


class ArmComparison(Part):
    """An arm against the first one, by one adversary's best attacks, over shared victims."""

    arm: str
    reference: str
    adversary: str
    attack: str
    reference_attack: str
    victims: Count = None
    devices: Count = None
    difference: Differences = Differences()


class ScenarioFacts(Part):
    """Which scenario was run."""

    name: str
    seed: int
    description: str = ""


class ImageCounts(Part):
    """Images in each of the five disjoint parts."""

    training: Count = None
    validation: Count = None
    auxiliary: Count = None
    auxiliary_validation: Count = None
    victims: Count = None


class DataFacts(Part):
    """The images of the run."""

    name: str
    image_shape: list[int] = Field(default=[])
    num_classes: Count = None
    label_names: list[str] | None = None
    has_persons: bool | None = None
    source: str | None = None
    images: ImageCounts = ImageCounts()
    majority_class_accuracy: Number = None


class FleetClass(Part):
    """Devices of one class in the fleet."""

    device_class: str
    devices: int
    models: dict[str, int] = Field(default={})
    links: dict[str, int] = Field(default={})


class FleetFacts(Part):
    """What the fleet consists of."""

    size: int
    device_classes: list[FleetClass] = Field(default=[])


class Edge(Part):
    """The front-end that every device runs, per image."""

    parameters: Count = None
    macs: Number = None
    peak_activation_elements: Number = None
    feature_shape: list[int] | None = None
    feature_bytes: Number = None
    weight_bytes: Number = None


class Cloud(Part):
    """The half that the server holds."""

    parameters: Count = None
    macs: Number = None


class Accuracy(Part):
    """Share of right answers, 0 to 1."""

    test: Interval | None = None
    final_validation: Number = None
    best_validation: Number = None


class ProviderTraining(Part):
    """Training at the service provider, before anything was deployed."""

    epochs: Count = None
    deployed_epoch: Count = None
    images: Count = None


class Training(Part):
    """Totals over all rounds; counts are of device-rounds, ``infeasible`` of devices."""

    protocol: str | None = None
    provider: ProviderTraining | None = None
    rounds: Count = None
    virtual_s: Number = None
    uplink_bytes: Number = None
    downlink_bytes: Number = None
    energy_j: Number = None
    energy_unknown_devices: Count = None
    participations: Count = None
    stragglers: Count = None
    offline: Count = None
    infeasible: Count = None
    failed: Count = None


class Latency(Part):
    """Quantiles of the answered requests, milliseconds."""

    median: Number = None
    p95: Number = None
    p99: Number = None


class LatencyParts(Part):
    """Means over the answered requests, milliseconds."""

    compute: Number = None
    uplink: Number = None
    queue: Number = None
    cloud: Number = None
    downlink: Number = None


class CloudCost(Part):
    """US dollars of server time for 1,000 answers: while busy only, and with idle time."""

    busy: Number = None
    provisioned: Number = None


class ServingCloud(Part):
    """The cloud that answered: its servers and the service times by the size of a batch."""

    device: str = ""
    servers: Count = None
    max_batch: Count = None
    batch_window_ms: Number = None
    service: str = ""
    service_ms: dict[str, list[float]] = Field(default={})
    price_usd_per_hour: Number = None
    span_s: Number = None


class ServedPart(Part):
    """The requests of the whole fleet, or of one device class."""

    requests: Count = None
    answered: Count = None
    unanswered: Count = None
    offloaded_raw: Count = None
    deadline_misses: Count = None
    deadline_miss_share: Number = None
    energy_mj_per_request: Number = None
    work_mj_per_request: Number = None
    wake_tail_mj_per_request: Number = None
    energy_unknown_devices: Count = None
    uplink_bytes_per_request: Number = None
    cloud_utilisation: Number = None
    mean_batch: Number = None
    cost_usd_per_1000: CloudCost = CloudCost()


class Serving(ServedPart):
    """The victims' requests."""

    offline: Count = None
    infeasible: Count = None
    latency_ms: Latency = Latency()
    latency_parts_ms: LatencyParts = LatencyParts()
    downlink_bytes_per_request: Number = None
    cloud: ServingCloud = ServingCloud()


class ArmOnClass(ServedPart):
    """One arm on one device class."""

    device_class: str
    devices: Count = None
    infeasible_training: Count = None
    infeasible_serving: Count = None
    accuracy: Interval | None = None
    latency_ms: Latency | None = None
    edge_compute_ms: Number = None
    stragglers: Count = None
    offline: Count = None
    participations: Count = None


class TierResult(Part):
    """What the devices of one tier run, what it costs them and how well it works."""

    tier: str
    devices: Count = None
    device_classes: list[str] = Field(default=[])
    front_end: str = ""
    defence: str = ""
    precision: str = ""
    edge: Edge | None = None
    cloud: Cloud | None = None
    infeasible_training: Count = None
    infeasible_serving: Count = None
    requests: Count = None
    accuracy: Interval | None = None
    latency_ms: Latency | None = None
    energy_mj_per_request: Number = None
    uplink_bytes_per_request: Number = None
    leakage: Leakage | None = None
    release: dict[str, Number] = Field(default={})


class ArmResult(Part):
    """Everything measured of one arm; parts not reached by an interrupted run are None."""

    name: Name
    front_end: str = ""
    defence: str = ""
    precision: str = ""
    cloud_model: str = ""
    edge: Edge | None = None
    cloud: Cloud | None = None
    accuracy: Accuracy | None = None
    training: Training | None = None
    serving: Serving | None = None
    leakage: Leakage | None = None
    tiers: list[TierResult] = Field(default=[])
    release: dict[str, Number] = Field(default={})
    error_bounds: list[ErrorBound] = Field(default=[])
    by_device_class: list[ArmOnClass] = Field(default=[])
    attacks: list[AttackResult] = Field(default=[])
    errors: list[str] = Field(default=[])
    hijack: Hijack | None = None

    @property
    def rebuilding(self) -> list[AttackResult]:
        """The attacks that rebuilt images, without the anchors."""
        return [
            attack
            for attack in self.attacks
            if not attack.is_anchor and attack.rebuilds_images and attack.mse is not None
        ]

    def best_attack(self, adversary: str | None = None) -> AttackResult | None:
        """Return the attack with the lowest MSE, of one adversary or of all."""
        ranked = [item for item in self.rebuilding if adversary in (None, item.adversary)]
        return min(ranked, key=lambda attack: attack.mse or 0.0, default=None)

    @property
    def best(self) -> AttackResult | None:
        """The attack with the lowest MSE over all adversaries."""
        return self.best_attack()

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


class SelfCheck(Part):
    """A property that the run verified about itself."""

    name: str
    passed: bool | None
    detail: str = ""


class Summary(Part):
    """The whole of ``results.json``."""

    schema_version: int
    status: Literal["complete", "interrupted"]
    testbed_version: str = ""
    scenario: ScenarioFacts
    data: DataFacts | None = None
    fleet: FleetFacts | None = None
    arms: list[ArmResult] = Field(default=[])
    comparisons: list[ArmComparison] = Field(default=[])
    self_checks: list[SelfCheck] = Field(default=[])
