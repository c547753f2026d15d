"""The two searches through known weights, against plain loops over the same gradients."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from attack_speed.bench import SEED, Bench, Case, normalised
from testbed.adversaries import augmentation
from testbed.adversaries.base import FloatArray
from testbed.adversaries.feature_search import FeatureDistance
from testbed.adversaries.learned_prior import Denoiser, LearnedPriorOptions, Splitting
from testbed.adversaries.white_box import Ascent, ResidualPrior
from testbed.core import seeds

CHUNK = 32
WEIGHT = 0.03
STRONGEST, WEAKEST = 0.25, 0.01
PRIOR = 1e-3


def cases(bench: Bench, steps: int) -> list[Case]:
    """Return the search of ``white_box``, and the denoiser and the search of ``learned_prior``."""
    distance = FeatureDistance(bench.deployed, bench.normalise, is_random=False)
    count = len(bench.features)
    start = np.broadcast_to(bench.mean, (count, *bench.mean.shape)).copy()
    options = LearnedPriorOptions(
        training_steps=steps, levels=2, steps_per_level=max(1, steps // 2)
    )
    denoiser = Denoiser(bench.auxiliary.images, options, SEED)
    search = Splitting(options, denoiser, distance)
    apart = _plain_distance(bench)
    prior = ResidualPrior.of(bench.auxiliary.images - bench.mean, 128)
    return [
        Case(
            "white_box",
            "reconstruction",
            steps * count,
            lambda: Ascent(steps, prior).run(distance, start, bench.features, WEIGHT, [steps])[0],
            lambda: _plain_ascent(apart, start, bench, prior, steps),
        ),
        Case(
            "learned_prior",
            "training",
            steps * options.batch_size,
            lambda: _weights(Denoiser(bench.auxiliary.images, options, SEED)),
            lambda: _weights(_plain_denoiser(bench, options)),
        ),
        Case(
            "learned_prior",
            "reconstruction",
            options.levels * options.steps_per_level * count,
            lambda: search.run(start, bench.features, PRIOR, options.levels)[-1],
            lambda: _plain_search(apart, start, bench, denoiser, options),
        ),
    ]


def _weights(denoiser: Denoiser) -> FloatArray:
    flat = [parameter.detach().flatten() for parameter in denoiser._network.parameters()]
    return torch.cat(flat).numpy()


def _plain_distance(bench: Bench) -> Callable[[Tensor, Tensor], Tensor]:
    front_end = bench.plain_front_end()
    centre, scale = (
        torch.from_numpy(bench.normalise.centre),
        torch.from_numpy(bench.normalise.scale),
    )

    def apart(x: Tensor, target: Tensor) -> Tensor:
        z = front_end(normalised(x).contiguous(memory_format=torch.channels_last))
        return ((z - centre) * scale - target).square().mean(dim=(1, 2, 3))

    return apart


def _plain_ascent(
    apart: Callable[[Tensor, Tensor], Tensor],
    start: FloatArray,
    bench: Bench,
    prior: ResidualPrior,
    steps: int,
) -> FloatArray:
    targets = torch.from_numpy(bench.normalise(bench.features)).split(CHUNK)
    axes = torch.from_numpy(prior.axes).flatten(1)
    found = []
    for part, target in zip(torch.from_numpy(start).split(CHUNK), targets, strict=True):
        u = torch.zeros(len(part), len(axes), requires_grad=True)
        optimiser = torch.optim.Adam([u], 0.15, betas=(0.9, 0.9), eps=1e-12, fused=True)
        for step in range(steps):
            x = (part + (u @ axes).view_as(part)).clamp(0.0, 1.0)
            loss = apart(x, target).sum() + WEIGHT * u.square().mean(dim=1).sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.param_groups[0]["lr"] = 0.15 * 0.5 * (1.0 + np.cos(np.pi * step / steps))
            optimiser.step()
        found.append((part + (u.detach() @ axes).view_as(part)).clamp(0.0, 1.0))
    return torch.cat(found).numpy()


def _plain_denoiser(bench: Bench, options: LearnedPriorOptions) -> Denoiser:
    """Train from the same initial weights with the same images, noise and order."""
    images = bench.auxiliary.images
    fresh = Denoiser.__new__(Denoiser)
    fresh._network = _first_network(images.shape[1], options)
    rng = seeds.torch_generator(SEED, "denoiser batches")
    optimiser = torch.optim.Adam(fresh._network.parameters(), 0.002, fused=True)
    for step in range(options.training_steps):
        chosen = torch.randperm(len(images), generator=rng)[: options.batch_size]
        clean = torch.from_numpy(augmentation.vary(images[chosen.numpy()], SEED, step))
        level = STRONGEST * torch.rand(len(clean), 1, 1, 1, generator=rng)
        noisy = clean + level * torch.randn(clean.shape, generator=rng)
        loss = functional.mse_loss(fresh(noisy, level), clean)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rate = 0.001 * (1.0 + np.cos(np.pi * step / options.training_steps))
        optimiser.param_groups[0]["lr"] = rate
    return fresh


def _first_network(channels: int, options: LearnedPriorOptions) -> torch.nn.Sequential:
    from testbed.adversaries.decoder_network import ResidualBlock, convolution

    rng = seeds.torch_generator(SEED, "denoiser weights")
    return torch.nn.Sequential(
        convolution(channels + 1, options.width, 3, rng, gain=1.0),
        torch.nn.ReLU(),
        ResidualBlock(options.width, rng),
        ResidualBlock(options.width, rng),
        convolution(options.width, channels, 3, rng, gain=0.0),
    ).to(memory_format=torch.channels_last)


def _plain_search(
    apart: Callable[[Tensor, Tensor], Tensor],
    start: FloatArray,
    bench: Bench,
    denoiser: Denoiser,
    options: LearnedPriorOptions,
) -> FloatArray:
    targets = torch.from_numpy(bench.normalise(bench.features)).split(CHUNK)
    levels = np.geomspace(STRONGEST, WEAKEST, options.levels)
    found = []
    for part, target in zip(torch.from_numpy(start).split(CHUNK), targets, strict=True):
        x = part.clone()
        for noise in (float(level) for level in levels):
            with torch.no_grad():
                natural = denoiser(x, torch.full((len(x), 1, 1, 1), noise)).clamp_(0.0, 1.0)
            x = natural.clone().requires_grad_()
            rate = options.learning_rate * noise / STRONGEST
            optimiser = torch.optim.Adam([x], rate, betas=(0.9, 0.99), eps=1e-12, fused=True)
            for _ in range(options.steps_per_level):
                pull = (x - natural).square().mean(dim=(1, 2, 3)).sum()
                loss = apart(x, target).sum() + PRIOR / noise**2 * pull
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                with torch.no_grad():
                    x.clamp_(0.0, 1.0)
            x = x.detach()
        found.append(x)
    return torch.cat(found).numpy()
