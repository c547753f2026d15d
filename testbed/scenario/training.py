"""Section ``training.provider``: how the service provider trains both halves on data of its own."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from testbed.scenario.components import PositiveShare, Section, Share


class AugmentationSection(Section):
    """Random changes of the provider's training images, drawn afresh every epoch."""

    horizontal_flip: bool = Field(default=False, description="of every second image, by chance")
    crop_padding_px: Annotated[int, Field(ge=0, le=64)] = Field(
        default=0, description="pad with black by so much, then crop the image's size at random"
    )
    brightness: Share = Field(default=0.0, description="factor within 1 - b and 1 + b")
    contrast: Share = Field(default=0.0, description="factor within 1 - c and 1 + c")
    saturation: Share = Field(
        default=0.0, description="factor within 1 - s and 1 + s; grey images have none"
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
        default=None, description="stop after so many epochs without a better one; null: never"
    )
    augmentation: AugmentationSection = AugmentationSection()
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto: a GPU if there is one; it decides the last bits"
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        default="fp32", description="of the forward passes in training; fp16 needs a GPU"
    )

    @model_validator(mode="after")
    def _stops_for_a_reason(self) -> Self:
        if self.early_stopping_epochs is not None and self.selection == "last":
            raise ValueError("early_stopping_epochs needs 'selection: accuracy' or 'loss'")
        return self
