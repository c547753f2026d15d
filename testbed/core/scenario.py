"""The scenario: everything a run depends on besides its seed's random streams and the libraries.

Field names carry their units. Unknown keys are refused. Components (defence, attack, ...) are given
by name, or as a mapping with ``name`` and the component's own options.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from testbed.core import registries
from testbed.core.adversary import Adversary, check_adversaries
from testbed.core.components import (
    AvailabilityChoice,
    DefenceChoice,
    FrontEndChoice,
    Name,
    PartitionerChoice,
    PositiveShare,
    Section,
    StrategyChoice,
    check_options,
    component,
)
from testbed.core.components import Component as Component


class Splits(Section):
    """Shares of the five disjoint parts; they must sum to 1 (see docs on privacy evaluation)."""

    training: PositiveShare = 0.55
    validation: PositiveShare = 0.08
    auxiliary: PositiveShare = 0.17
    auxiliary_validation: PositiveShare = 0.04
    victims: PositiveShare = 0.16

    @model_validator(mode="after")
    def _sum_to_one(self) -> Self:
        total = sum(self.model_dump().values())
        if abs(total - 1.0) > 1e-6:
            raise ValueError(f"the five shares must sum to 1, they sum to {total:g}")
        return self


class DataSection(Section):
    """Which images, how many, and how they are shared out among the devices."""

    name: str = "digits"
    options: dict[str, Any] = Field(
        default_factory=dict, description="the dataset's own options, for instance column names"
    )
    path: str | None = Field(
        default=None, description="folder in Hugging Face parquet layout, or its parent"
    )
    image_size_px: Annotated[int, Field(ge=16, le=256, multiple_of=16)] | None = Field(
        default=None, description="images are resized to this square; null keeps the native size"
    )
    max_images: Annotated[int, Field(ge=50)] | None = Field(
        default=None, description="at most this many images in all five parts together"
    )
    splits: Splits = Splits()
    partitioner: PartitionerChoice = component(registries.PARTITIONERS, "iid")
    images_per_device: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="draw this many per device with replacement, for fleets larger than the data",
    )

    @model_validator(mode="after")
    def _known_dataset(self) -> Self:
        check_options(registries.DATASETS, self.name, self.options)
        registries.DATASETS.options(self.name, self.options)
        return self


class MixEntry(Section):
    """A share of the fleet: one catalogue device, and the links it is found on."""

    device: str
    weight: Annotated[float, Field(gt=0.0)] = 1.0
    links: dict[str, Annotated[float, Field(gt=0.0)]] = Field(
        default_factory=lambda: {"wifi": 1.0}, min_length=1
    )


class FleetSection(Section):
    """How many devices, drawn from which mix, and how often they are reachable."""

    size: Annotated[int, Field(ge=1)] = 100
    mix: list[MixEntry] = Field(min_length=1)
    catalogues: list[str] = Field(
        default=[],
        description="your own device catalogues (CSV or YAML), relative to the working directory",
    )
    availability: AvailabilityChoice = component(registries.AVAILABILITIES, "bernoulli")
    infeasible: Literal["drop", "offload_raw"] = Field(
        default="drop",
        description="what devices whose memory the front-end does not fit do when serving: "
        "nothing, or send the raw image (fully exposed) and let the cloud run the front-end",
    )
    loss_probability: Annotated[float, Field(ge=0.0, lt=0.5)] = Field(
        default=0.0,
        description="of every transmission; lost ones are repeated until they arrive, with "
        "exponential back-off, whose mean wait is infinite from 0.5 on",
    )
    devices_per_access_point: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="devices on WiFi that share one access point; null: none share"
    )


class EdgeOptimiserSection(Section):
    """The optimiser of a device's front-end; its moments start at zero every round."""

    method: Literal["sgd", "adam"] = "sgd"
    learning_rate: Annotated[float, Field(gt=0.0)] = 0.05
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        default=0.9, description="SGD's momentum, or Adam's first beta"
    )
    second_beta: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        default=0.999, description="Adam's second beta; SGD has none"
    )
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    clip_norm: Annotated[float, Field(gt=0.0)] | None = 1.0


class CloudOptimiserSection(Section):
    """The optimiser of the shared cloud model (Adam, kept over the whole training)."""

    learning_rate: Annotated[float, Field(gt=0.0)] = 0.001
    betas: list[Annotated[float, Field(ge=0.0, lt=1.0)]] = Field(
        default=[0.9, 0.999], min_length=2, max_length=2
    )
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0


class TrainingSection(Section):
    """Split-federated training: rounds, cohorts, local steps, and who is late."""

    protocol: Literal["split_federated"] = "split_federated"
    rounds: Annotated[int, Field(ge=1)] = 10
    cohort_size: Annotated[int, Field(ge=1)] = 20
    local_steps: Annotated[int, Field(ge=1)] = 4
    batch_size: Annotated[int, Field(ge=2)] = 10
    round_deadline_s: Annotated[float, Field(gt=0.0)] = Field(
        default=120.0, description="virtual seconds; spread evenly over the local steps"
    )
    evaluate_every_rounds: Annotated[int, Field(ge=1)] = 1
    checkpoint_every_rounds: Annotated[int, Field(ge=1)] = Field(
        default=1, description="an interrupted run repeats the rounds since the last checkpoint"
    )
    strategy: StrategyChoice = component(registries.STRATEGIES, "fedavg")
    learning_rate_schedule: Literal["constant", "cosine"] = Field(
        default="cosine", description="of both learning rates, over the rounds"
    )
    edge_optimiser: EdgeOptimiserSection = EdgeOptimiserSection()
    cloud_optimiser: CloudOptimiserSection = CloudOptimiserSection()


class Arm(Section):
    """One front-end and defence, evaluated on the same fleet, data and seeds as the others."""

    name: Name
    front_end: FrontEndChoice = component(registries.FRONT_ENDS, "cnn")
    defence: DefenceChoice = component(registries.DEFENCES, "none")


class ServingSection(Section):
    """The victims' requests: when they come, and the cloud that answers them."""

    horizon_s: Annotated[float, Field(gt=0.0)] = Field(
        default=600.0, description="virtual seconds over which the requests arrive (Poisson)"
    )
    cloud_device: str = "cloud-server"
    cloud_servers: Annotated[int, Field(ge=1)] = 1
    request_deadline_ms: Annotated[float, Field(gt=0.0)] = 1000.0
    radio_sleep: bool = Field(
        default=True,
        description="cellular radios fall asleep between requests and take up to a second to wake",
    )


class EngineSection(Section):
    """How the simulation itself is executed; nothing here but ``cloud_threads`` changes results."""

    backend: Literal["ray", "inline"] = "ray"
    hosts: Annotated[int, Field(ge=1, le=256)] | None = Field(
        default=None, description="Ray host actors; null means one per core"
    )
    shard_size: Annotated[int, Field(ge=1)] = 5
    cloud_threads: Annotated[int, Field(ge=1, le=64)] = Field(
        default=2, description="threads of the cloud model; part of the scenario, as it sets bits"
    )


class EvaluationSection(Section):
    """How scores are aggregated."""

    bootstrap_resamples: Annotated[int, Field(ge=100, le=100_000)] = 1000
    reconstructions_shown: Annotated[int, Field(ge=1, le=64)] = 12


class Scenario(Section):
    """A complete, validated scenario."""

    name: Name
    description: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    data: DataSection = Field(default_factory=DataSection)
    fleet: FleetSection
    training: TrainingSection = Field(default_factory=TrainingSection)
    arms: list[Arm] = Field(min_length=1)
    serving: ServingSection = ServingSection()
    adversaries: list[Adversary] = Field(default_factory=list)
    evaluation: EvaluationSection = EvaluationSection()
    engine: EngineSection = EngineSection()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for label, names in (
            ("arms", [arm.name for arm in self.arms]),
            ("adversaries", [adversary.name for adversary in self.adversaries]),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{label}: the name '{twice[0]}' is used twice")
        check_adversaries(self.adversaries, self.data.name)
        if self.training.cohort_size > self.fleet.size:
            raise ValueError(
                f"training.cohort_size ({self.training.cohort_size}) exceeds "
                f"fleet.size ({self.fleet.size})"
            )
        return self
