"""The ``training`` section: the fleet trains in rounds, or the provider before it deploys."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from testbed.core import registries
from testbed.scenario.components import PositiveShare, Section, Share, StrategyChoice, component

ADAM_STATE_COPIES = 2  # both moments
MOST_THREADS = 64
"""Of the provider's training; a batch is too small for more."""


class AugmentationSection(Section):
    """Random augmentation of the provider's training images, drawn again every epoch."""

    horizontal_flip: bool = Field(default=False, description="with probability one half")
    crop_padding_px: Annotated[int, Field(ge=0, le=64)] = Field(
        default=0, description="black padding, before a random crop to the image's size"
    )
    brightness: Share = Field(default=0.0, description="factor within 1 - b and 1 + b")
    contrast: Share = Field(default=0.0, description="factor within 1 - c and 1 + c")
    saturation: Share = Field(
        default=0.0, description="factor within 1 - s and 1 + s; grey images have none"
    )
    hue: Annotated[float, Field(ge=0.0, le=0.5)] = Field(
        default=0.0, description="share of a full circle that hues turn at most, either way"
    )


class ProviderOptimiserSection(Section):
    """One optimiser for both halves; the defaults are those of arXiv 2501.00824."""

    method: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: Annotated[float, Field(gt=0.0)] = 0.001
    betas: list[Annotated[float, Field(ge=0.0, lt=1.0)]] = Field(
        default=[0.5, 0.999], min_length=2, max_length=2, description="of Adam and AdamW"
    )
    amsgrad: bool = Field(default=True, description="of Adam and AdamW")
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(default=0.9, description="of SGD")
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.001
    clip_norm: Annotated[float, Field(gt=0.0)] | None = Field(
        default=None, description="largest gradient norm over both halves together"
    )


class ProviderSection(Section):
    """Central training before deployment; unused by other protocols."""

    share_of_training: PositiveShare = Field(
        default=1.0, description="share of the training part that the provider holds, pooled"
    )
    epochs: Annotated[int, Field(ge=1, le=100_000)] = 30
    batch_size: Annotated[int, Field(ge=2)] = 128
    optimiser: ProviderOptimiserSection = ProviderOptimiserSection()
    learning_rate_schedule: Literal["constant", "cosine", "plateau"] = "plateau"
    plateau_factor: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        default=0.5, description="of the learning rate when the validation loss stops falling"
    )
    plateau_patience_epochs: Annotated[int, Field(ge=0)] = 5
    selection: Literal["accuracy", "loss", "last"] = Field(
        default="accuracy", description="validation figure whose best epoch is deployed"
    )
    early_stopping_epochs: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="epochs without improvement before training stops; null: never"
    )
    augmentation: AugmentationSection = AugmentationSection()
    precision: Literal["fp32", "bf16", "fp16", "auto"] = Field(
        default="fp32",
        description="of the forward passes in training; fp16 needs a GPU; auto: bf16 where the "
        "processor has it, else fp32, written to the resolved scenario",
    )
    threads: Annotated[int, Field(ge=1, le=MOST_THREADS)] | None = Field(
        default=None,
        description="of torch; they change the last bits of results; null: all cores of this "
        "machine, written to the resolved scenario",
    )

    @model_validator(mode="before")
    @classmethod
    def _has_no_device(cls, given: Any) -> Any:
        if isinstance(given, dict) and "device" in given:
            raise ValueError(
                "give engine.device, which holds for the whole run, and no device here"
            )
        return given

    @model_validator(mode="after")
    def _stops_for_a_reason(self) -> Self:
        if self.early_stopping_epochs is not None and self.selection == "last":
            raise ValueError("early_stopping_epochs needs 'selection: accuracy' or 'loss'")
        return self


class EdgeOptimiserSection(Section):
    """The optimiser of a device's front-end."""

    method: Literal["sgd", "adam", "sign"] = Field(
        default="sgd",
        description="sgd: its momentum starts at zero every round; adam: its moments travel and "
        "are averaged with the weights; sign: every weight moves by the learning rate",
    )
    learning_rate: Annotated[float, Field(gt=0.0)] = 0.05
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        default=0.9, description="SGD's momentum, or Adam's first beta; sign has none"
    )
    second_beta: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        default=0.999, description="Adam's second beta; the others have none"
    )
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    clip_norm: Annotated[float, Field(gt=0.0)] | None = 1.0

    @property
    def state_copies(self) -> int:
        """Return how many numbers it keeps in memory for each weight, beside the gradient."""
        if self.method == "sgd":
            return 1 if self.momentum else 0
        return ADAM_STATE_COPIES if self.method == "adam" else 0


class CloudOptimiserSection(Section):
    """The optimiser of the shared cloud model (Adam, kept over the whole training)."""

    learning_rate: Annotated[float, Field(gt=0.0)] = 0.001
    betas: list[Annotated[float, Field(ge=0.0, lt=1.0)]] = Field(
        default=[0.9, 0.999], min_length=2, max_length=2
    )
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0


class TrainingSection(Section):
    """The training protocol: the fleet in rounds, or the provider before it deploys."""

    protocol: Literal["split_federated", "provider"] = Field(
        default="split_federated",
        description="provider: trained centrally on the provider's data, then deployed",
    )
    rounds: Annotated[int, Field(ge=1)] = Field(
        default=10, description="of split_federated; the provider has epochs instead"
    )
    provider: ProviderSection = ProviderSection()
    fine_tune_rounds: Annotated[int, Field(ge=0)] = Field(
        default=0, description="split-federated rounds after the provider's training"
    )
    reuse_models: bool = Field(
        default=True, description="load the provider's models from models/, and save them there"
    )
    cohort_size: Annotated[int, Field(ge=1)] = 20
    local_steps: Annotated[int, Field(ge=1)] = 4
    batch_size: Annotated[int, Field(ge=2)] = 10
    round_deadline_s: Annotated[float, Field(gt=0.0)] = Field(
        default=120.0, description="virtual seconds; spread evenly over the local steps"
    )
    offline_noticed_after_s: Annotated[float, Field(ge=0.0)] | None = Field(
        default=None,
        description="virtual seconds until the server gives up on a device that is offline; 0: it "
        "knows at once; null: it waits until the reply is due",
    )
    evaluate_every_rounds: Annotated[int, Field(ge=1)] = 1
    checkpoint_every_rounds: Annotated[int, Field(ge=1)] = Field(
        default=1, description="an interrupted run repeats the rounds since the last checkpoint"
    )
    strategy: StrategyChoice = component(registries.STRATEGIES, "fedavg")
    device_weights: Literal["images", "uniform"] = Field(
        default="images",
        description="a device's weight in the strategy: the training images it holds, or one",
    )
    learning_rate_schedule: Literal["constant", "cosine"] = Field(
        default="cosine", description="of both learning rates, over the rounds"
    )
    edge_optimiser: EdgeOptimiserSection = EdgeOptimiserSection()
    cloud_optimiser: CloudOptimiserSection = CloudOptimiserSection()

    @property
    def fleet_rounds(self) -> int:
        """Return how many rounds the fleet trains in."""
        return self.fine_tune_rounds if self.protocol == "provider" else self.rounds

    @model_validator(mode="after")
    def _fine_tunes_something(self) -> Self:
        if self.fine_tune_rounds and self.protocol != "provider":
            raise ValueError("fine_tune_rounds needs 'protocol: provider'; give rounds instead")
        return self
