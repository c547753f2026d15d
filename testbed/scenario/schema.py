"""The scenario: everything that a run depends on, apart from the versions of libraries.

Field names carry their units. Unknown keys are refused. Components (defence, attack, ...) are given
by name, or as a mapping with ``name`` and the component's own options.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from testbed.core import registries
from testbed.core.registry import Registry, nearest
from testbed.scenario.adversary import (
    Adversary,
    check_adversaries,
    check_training_attacks,
    check_training_victims,
    with_preset,
)
from testbed.scenario.components import (
    AvailabilityChoice,
    DefenceChoice,
    FrontEndChoice,
    Name,
    PartitionerChoice,
    PositiveShare,
    Section,
    Strength,
    below,
    check_options,
    component,
    overridden,
)
from testbed.scenario.serving import ServingSection
from testbed.scenario.training import TrainingSection


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
    """The images, their number, and their distribution over the devices."""

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
    serving_images: Literal["own", "uniform"] = Field(
        default="own",
        description="own: a device serves victims of the classes that it trains on, in proportion "
        "to its training images; uniform: all devices serve equally many, of any class",
    )

    @model_validator(mode="after")
    def _known_dataset(self) -> Self:
        check_options(registries.DATASETS, self.name, self.options)
        try:
            registries.DATASETS.options(self.name, self.options)
        except ValidationError as error:
            raise below("options", error) from None
        return self


class MixEntry(Section):
    """A share of the fleet: one catalogue device, and the links it is found on."""

    device: str
    weight: Annotated[float, Field(gt=0.0)] = 1.0
    links: dict[str, Annotated[float, Field(gt=0.0)]] = Field(
        default_factory=lambda: {"wifi": 1.0}, min_length=1
    )


Precision = Literal["float32", "int8"]
Change = str | dict[str, Any]
"""Another component by name or with options, or changed options of the arm's component."""


class Assignment(Section):
    """A tier: the front-end and defence of some devices, instead of the arm's own."""

    name: Name
    devices: list[str] = Field(
        min_length=1, description="device classes, or devices of the catalogue by name"
    )
    arms: list[str] | None = Field(default=None, description="only on these arms; null: on all")
    front_end: Change | None = Field(
        default=None, description="options on top of the arm's, or another front-end by its name"
    )
    defence: Change | None = Field(
        default=None, description="options on top of the arm's, or another defence by its name"
    )
    precision: Precision | None = Field(default=None, description="null: as the arm")


class FleetSection(Section):
    """The number of devices, the mix that they are drawn from, and their availability."""

    size: Annotated[int, Field(ge=1)] = 100
    mix: list[MixEntry] = Field(min_length=1)
    catalogues: list[str] = Field(
        default=[],
        description="your own device catalogues (CSV or YAML), relative to the working directory",
    )
    availability: AvailabilityChoice = component(registries.AVAILABILITIES, "bernoulli")
    assignments: list[Assignment] = Field(
        default=[],
        description="tiers: the first that names a device applies to it; devices that no tier "
        "names run the arm's own front-end",
    )
    infeasible: Literal["drop", "offload_raw", "smaller_front_end"] = Field(
        default="drop",
        description="behaviour in serving of devices that the front-end does not fit: drop the "
        "request, or send the raw image (fully exposed) for the cloud to run the front-end, or "
        "run the first of smaller_front_ends that fits",
    )
    smaller_front_ends: list[Change] | None = Field(
        default=None,
        description="tried in this order where infeasible is smaller_front_end; null: the "
        "front-end's width, halved repeatedly",
    )
    loss_probability: Annotated[float, Field(ge=0.0, lt=0.5)] = Field(
        default=0.0,
        description="of every transmission; lost ones are repeated with exponential back-off, "
        "whose mean wait is infinite from 0.5 on",
    )
    devices_per_access_point: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="devices on WiFi that share one access point; null: no sharing"
    )
    radio_sleep: bool = Field(
        default=True,
        description="cellular radios fall asleep between messages and take up to a second to wake",
    )


class Arm(Section):
    """One front-end and defence, evaluated on the same fleet, data and seeds as the others."""

    name: Name
    front_end: FrontEndChoice = component(registries.FRONT_ENDS, "cnn")
    defence: DefenceChoice = component(registries.DEFENCES, "none")
    precision: Precision = Field(
        default="float32", description="int8: 8-bit weights, activations and features, emulated"
    )
    hijacked_by: Name | None = Field(
        default=None,
        description="the adversary that is a malicious cloud on this arm and steers its training",
    )


class EngineSection(Section):
    """How the simulation is executed; ``device`` and ``cloud_threads`` change last bits."""

    backend: Literal["ray", "inline"] = "ray"
    hosts: Annotated[int, Field(ge=1, le=256)] | None = Field(
        default=None, description="Ray host actors; null means one per core"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="cpu",
        description="computes devices, cloud, provider, attacks, bounds and evaluation; "
        "cuda: an NVIDIA GPU; auto: one if there is one; it changes the last bits of results",
    )
    shard_size: Annotated[int, Field(ge=1)] = 5
    cloud_threads: Annotated[int, Field(ge=1, le=64)] = Field(
        default=2, description="threads of the cloud model; they change the last bits of results"
    )


class EvaluationSection(Section):
    """How scores are aggregated."""

    bootstrap_resamples: Annotated[int, Field(ge=100, le=100_000)] = 1000
    reconstructions_shown: Annotated[int, Field(ge=1, le=64)] = 12
    attacks: Strength = Field(
        default="standard",
        description="options of all attacks that the scenario leaves out: their defaults, or "
        "presets of about a quarter of the time (fast) or several times as much (thorough)",
    )
    mutual_information: bool = Field(
        default=False,
        description="train critics that bound the mutual information of images and features from "
        "below (MINE, InfoNCE); needs at least 192 auxiliary images and 64 victims",
    )


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

    @model_validator(mode="before")
    @classmethod
    def _with_presets(cls, tree: Any) -> Any:
        evaluation = tree.get("evaluation") if isinstance(tree, dict) else None
        strength = evaluation.get("attacks") if isinstance(evaluation, dict) else None
        if strength not in ("fast", "thorough") or not isinstance(tree.get("adversaries"), list):
            return tree  # the defaults, or something that is refused below
        return tree | {"adversaries": [with_preset(item, strength) for item in tree["adversaries"]]}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for label, names in (
            ("arms", [arm.name for arm in self.arms]),
            ("adversaries", [adversary.name for adversary in self.adversaries]),
            ("fleet.assignments", [item.name for item in self.fleet.assignments]),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{label}: the name '{twice[0]}' is used twice")
        check_adversaries(self.adversaries, self.data.name)
        hijacked_by = {arm.name: arm.hijacked_by for arm in self.arms}
        check_training_attacks(self.adversaries, hijacked_by, self.training.protocol)
        check_training_victims(self.adversaries, self.training)
        serving = self.serving
        missing = [arm.name for arm in self.arms if arm.name not in serving.recorded_service_ms]
        if serving.cloud_service == "recorded" and missing:
            raise ValueError(f"serving.recorded_service_ms: no times of arm '{missing[0]}'")
        if self.training.fleet_rounds and self.training.cohort_size > self.fleet.size:
            raise ValueError(
                f"training.cohort_size ({self.training.cohort_size}) exceeds "
                f"fleet.size ({self.fleet.size})"
            )
        return self

    @model_validator(mode="after")
    def _assignable(self) -> Self:
        names = [arm.name for arm in self.arms]
        for item in self.fleet.assignments:
            where = f"fleet.assignments.{item.name}"
            if unknown := sorted(set(item.arms or []) - set(names)):
                raise ValueError(
                    f"{where}.arms: no arm '{unknown[0]}'{nearest(unknown[0], names)}; "
                    f"arms: {', '.join(names)}"
                )
            for arm in self.arms:
                if item.arms is None or arm.name in item.arms:
                    _check_change(f"{where}.front_end", registries.FRONT_ENDS, arm, item.front_end)
                    _check_change(f"{where}.defence", registries.DEFENCES, arm, item.defence)
        if self.fleet.smaller_front_ends and self.fleet.infeasible != "smaller_front_end":
            raise ValueError("fleet.smaller_front_ends needs 'fleet.infeasible: smaller_front_end'")
        for arm in self.arms:
            for index, change in enumerate(self.fleet.smaller_front_ends or []):
                where = f"fleet.smaller_front_ends.{index}"
                _check_change(where, registries.FRONT_ENDS, arm, change)
        return self


def _check_change(where: str, registry: Registry[Any], arm: Arm, change: Change | None) -> None:
    base = arm.front_end if registry is registries.FRONT_ENDS else arm.defence
    try:
        overridden(registry, base, change)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{where}.{key} (arm {arm.name}): {first['msg'].lower()}") from None
    except ValueError as error:
        raise ValueError(f"{where} (arm {arm.name}): {error}") from None
