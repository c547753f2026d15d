"""White-box search under a learned prior: a denoiser, trained on auxiliary images.

The reconstruction must have the intercepted features and be a natural image. Half-quadratic
splitting alternates: the denoiser moves the estimate towards natural images, then a few steps of
Adam move it towards the features, from strong noise to weak. The weight of the prior and the level
to stop at are tuned on the attacker's validation images. No prior and no step are among the
choices.

References
----------
Zhang et al., Plug-and-play image restoration with deep denoiser prior, IEEE TPAMI 44(10), 2022,
section 4.1 (the splitting and its noise levels). Learned priors for inverting features: Li et al.,
GLASS, NeurIPS 2023 (a generator), and DRAG, ICML 2025 (diffusion).
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from testbed.adversaries import augmentation
from testbed.adversaries.averaged_decoder import AveragedDecoderOptions
from testbed.adversaries.base import Evidence, FloatArray
from testbed.adversaries.decoder_network import ResidualBlock, convolution, update
from testbed.adversaries.effort import Effort
from testbed.adversaries.feature_search import (
    FeatureDistance,
    FeatureSearch,
    Reconstruct,
    Search,
    Start,
    adam,
    chunks,
)
from testbed.adversaries.kernel_ridge import KernelRidge, KernelRidgeOptions
from testbed.adversaries.residual_decoder import ResidualDecoder, ResidualDecoderOptions
from testbed.core import seeds
from testbed.core.compute import as_array, on_device
from testbed.core.registries import ATTACKS
from testbed.core.registry import NonNegative, Options, Positive

_STRONGEST, _WEAKEST = 0.25, 0.01  # noise levels, in units of the pixels' range


class LearnedPriorOptions(Options):
    """Options of the search under a denoiser."""

    start: Start = Field(default="best", description="start of the search, as that of `white_box`")
    decoder: ResidualDecoderOptions = ResidualDecoderOptions()
    averaged_decoder: AveragedDecoderOptions | None = Field(
        default=None, description="with `start: best`, train this slower decoder as well"
    )
    kernel_ridge: KernelRidgeOptions = KernelRidgeOptions()
    width: Annotated[int, Field(ge=4)] = Field(default=24, description="channels of the denoiser")
    training_steps: Annotated[int, Field(ge=1)] = 300
    batch_size: Annotated[int, Field(ge=1)] = 8
    levels: Annotated[int, Field(ge=1, le=100)] = Field(
        default=8, description="noise levels, decreasing geometrically"
    )
    steps_per_level: Annotated[int, Field(ge=1)] = 24
    learning_rate: Positive = Field(
        default=0.1, description="of the search at the first level; decreases with the noise"
    )
    prior_weights: list[NonNegative] = Field(
        default=[0.0, 1e-4, 1e-3, 1e-2], min_length=1, description="weights tried in tuning"
    )
    tuning_images: Annotated[int, Field(ge=1)] = 8


@ATTACKS.register(
    "learned_prior",
    "searches for images through the known weights under a denoiser of auxiliary images",
    LearnedPriorOptions,
)
class LearnedPrior(FeatureSearch):
    """Plug-and-play inversion."""

    name = "learned_prior"
    options: LearnedPriorOptions
    search_space: ClassVar = {
        "start": ("mean_image", "best"),
        "training_steps": (300, 1000, 3000),
        "steps_per_level": (12, 24, 48),
    }
    presets: ClassVar = {
        "fast": {
            "steps_per_level": 8,
            "prior_weights": [0.0, 1e-3],
            "decoder": ResidualDecoder.presets["fast"],
            "kernel_ridge": KernelRidge.presets["fast"],
        },
        "thorough": {
            "training_steps": 1000,
            "steps_per_level": 48,
            "tuning_images": 24,
            "averaged_decoder": {},
            "decoder": ResidualDecoder.presets["thorough"],
            "kernel_ridge": KernelRidge.presets["thorough"],
        },
    }

    def tuned(self, search: Search) -> tuple[Reconstruct, float]:
        """Return the search with the best weight of the prior and the best level to stop at."""
        options = self.options
        denoiser = Denoiser(search.evidence.auxiliary.images, options, search.seed)
        splitting = Splitting(options, denoiser, search.distance)

        def ends(features: FloatArray, weight: float, levels: int) -> list[FloatArray]:
            return splitting.run(search.start(features), features, weight, levels)

        weight, level, ratio = search.best_choice(
            options.tuning_images,
            options.prior_weights,
            range(options.levels + 1),
            lambda features, weight: ends(features, weight, options.levels),
        )
        search.report(f"searching down to level {level} with a prior of weight {weight:g}")
        return lambda features: ends(features, weight, level)[level], ratio

    def effort(self, evidence: Evidence, intercepts: int) -> list[Effort]:
        """Return the steps of the search, and those of the denoiser."""
        options = self.options.model_copy(update={"training_steps": 1})
        images = evidence.auxiliary.first(self.options.batch_size).images
        shape = "x".join(str(side) for side in images.shape)
        trained = Effort(
            self.options.training_steps,
            f"step of a denoiser of width {options.width} for {shape}",
            lambda: Denoiser(images, options, seed=0),
        )
        return [*super().effort(evidence, intercepts), trained]

    def steps(self, tuning: int, intercepted: int) -> float:
        """Return the steps of tuning, and of a search down to the last level."""
        options = self.options
        each = options.levels * options.steps_per_level
        return each * (len(options.prior_weights) * tuning + intercepted)


class Denoiser:
    """Removes Gaussian noise of a given level from images; trained on varied auxiliary images."""

    def __init__(self, images: FloatArray, options: LearnedPriorOptions, seed: int) -> None:
        channels = images.shape[1]
        rng = seeds.torch_generator(seed, "denoiser weights")
        width = options.width
        self._network = nn.Sequential(
            convolution(channels + 1, width, 3, rng, gain=1.0),
            nn.ReLU(),
            ResidualBlock(width, rng),
            ResidualBlock(width, rng),
            convolution(width, channels, 3, rng, gain=0.0),  # the identity at first
        ).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._train(images, options, seed)
        self._network.requires_grad_(False)

    def _train(self, images: FloatArray, options: LearnedPriorOptions, seed: int) -> None:
        rng = seeds.torch_generator(seed, "denoiser batches")
        optimiser = torch.optim.Adam(self._network.parameters(), 0.002, fused=True)
        for step in range(options.training_steps):
            chosen = torch.randperm(len(images), generator=rng)[: options.batch_size]
            clean = on_device(augmentation.vary(images[chosen.numpy()], seed, step))
            level = _STRONGEST * torch.rand(len(clean), 1, 1, 1, generator=rng)
            noisy = clean + on_device(level * torch.randn(clean.shape, generator=rng))
            loss = functional.mse_loss(self(noisy, on_device(level)), clean)
            update(optimiser, loss)
            for group in optimiser.param_groups:
                group["lr"] = 0.001 * (1.0 + np.cos(np.pi * step / options.training_steps))

    def __call__(self, noisy: Tensor, level: Tensor) -> Tensor:
        """Remove noise of standard deviation ``level`` (N, 1, 1, 1) from images (N, C, H, W)."""
        level_map = level.expand(-1, 1, *noisy.shape[2:])
        change: Tensor = self._network(torch.cat([noisy, level_map], dim=1))
        # The correction is proportional to the noise: images without noise stay unchanged.
        return noisy + change * (level / _STRONGEST)


@dataclass(frozen=True)
class Splitting:
    """Half-quadratic splitting between the denoiser and the features."""

    options: LearnedPriorOptions
    denoiser: Denoiser
    distance: FeatureDistance

    def run(
        self, start: FloatArray, features: FloatArray, weight: float, levels: int
    ) -> list[FloatArray]:
        """Return the images at the start and after each of the first ``levels`` levels."""
        images = [start, *(np.empty_like(start) for _ in range(levels))]
        noise = np.geomspace(_STRONGEST, _WEAKEST, self.options.levels)
        for part in chunks(start):
            target = self.distance.target(features[part])
            x = on_device(start[part].copy())
            for index in range(levels):
                x = self._level(x, target, float(noise[index]), weight, index)
                images[index + 1][part] = as_array(x)
        return images

    def _level(self, x: Tensor, target: Tensor, noise: float, weight: float, index: int) -> Tensor:
        options = self.options
        natural = x
        if weight > 0.0:
            with torch.no_grad():
                natural = self.denoiser(
                    x, torch.full((len(x), 1, 1, 1), noise, device=x.device)
                ).clamp_(0.0, 1.0)
        x = natural.clone().requires_grad_()
        optimiser = adam(x, options.learning_rate * noise / _STRONGEST)
        for step in range(options.steps_per_level):
            number = index * options.steps_per_level + step
            loss = self.distance(x, target, number).sum()
            if weight > 0.0:
                apart = (x - natural).square().mean(dim=(1, 2, 3)).sum()
                loss = loss + weight / noise**2 * apart
            (x.grad,) = torch.autograd.grad(loss, x)
            optimiser.step()
            with torch.no_grad():
                x.clamp_(0.0, 1.0)
        return x.detach()
