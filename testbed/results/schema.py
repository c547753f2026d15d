"""The typed form of ``results.json`` (docs/results.md, schema version 1).

Every number may be ``None``: unknown, or not reached because the run was interrupted. Keys that
are not listed here are ignored, so that a newer run of the same schema version stays readable.
"""

from typing import Literal

from pydantic import Field

from testbed.results.schema_parts import Count as Count
from testbed.results.schema_parts import Interval as Interval
from testbed.results.schema_parts import Name as Name
from testbed.results.schema_parts import Number as Number
from testbed.results.schema_parts import Part as Part
from testbed.results.schema_privacy import ArmComparison as ArmComparison
from testbed.results.schema_privacy import AttackOnClass as AttackOnClass
from testbed.results.schema_privacy import AttackOnTier as AttackOnTier
from testbed.results.schema_privacy import AttackResult as AttackResult
from testbed.results.schema_privacy import BoundLevel as BoundLevel
from testbed.results.schema_privacy import ErrorBound as ErrorBound
from testbed.results.schema_privacy import Grants as Grants
from testbed.results.schema_privacy import Hijack as Hijack
from testbed.results.schema_privacy import Leakage as Leakage
from testbed.results.schema_privacy import Transfer as Transfer

SCHEMA_VERSION = 1


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
