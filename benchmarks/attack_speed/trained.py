"""The decoder, its reconstruction, and the aligned substitute, against plain training loops."""

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from attack_speed.bench import SEED, Bench, Case
from testbed.adversaries import augmentation
from testbed.adversaries.averaged_decoder import AveragedDecoderOptions, AveragedTraining
from testbed.adversaries.base import FloatArray, silent
from testbed.adversaries.decoder_network import CAPACITIES, DecoderNetwork
from testbed.adversaries.residual_decoder import DecoderTraining, ResidualDecoderOptions
from testbed.adversaries.shadow_front_end import (
    discrepancy,
    discriminator,
)
from testbed.adversaries.substitute import Alignment, SubstituteOptions
from testbed.core import seeds
from testbed.core.registries import FRONT_ENDS

RATE = 0.003
SUBSTITUTE_RATE = 0.002


def cases(bench: Bench, epochs: int, steps: int) -> list[Case]:
    """Return both decoders' training and reconstruction, and the substitute's training."""
    options = ResidualDecoderOptions(
        max_epochs=epochs, patience=epochs + 1, augment=False, min_epoch_steps=1, learning_rate=RATE
    )
    trained = DecoderTraining(options, bench.evidence, SEED)
    trained.run(silent)
    averaged = AveragedDecoderOptions(
        capacity="small", max_epochs=epochs, patience=epochs + 1, augment=False, min_epoch_steps=1
    )
    both = AveragedTraining(averaged, bench.evidence, SEED)
    both.run(silent)
    aligned = SubstituteOptions(steps=steps, learning_rate=SUBSTITUTE_RATE)
    mean, scale = torch.from_numpy(bench.mean), torch.from_numpy(bench.normalise.scale)
    centre = torch.from_numpy(bench.normalise.centre)
    read = torch.from_numpy(bench.features)
    return [
        Case(
            "residual_decoder",
            "training",
            epochs * len(bench.auxiliary.labels),
            lambda: _trained(DecoderTraining(options, bench.evidence, SEED)),
            lambda: _plain_decoder(bench, epochs, options.batch_size),
        ),
        Case(
            "residual_decoder",
            "reconstruction",
            len(bench.features),
            lambda: trained.reconstruct(bench.features),
            lambda: _decoded(trained.network, mean, (read - centre) * scale),
        ),
        Case(
            "averaged_decoder",
            "training",
            2 * epochs * len(bench.auxiliary.labels),
            lambda: _trained(AveragedTraining(averaged, bench.evidence, SEED)),
            lambda: _plain_averaged(averaged, bench, epochs),
        ),
        Case(
            "averaged_decoder",
            "reconstruction",
            2 * len(bench.features),
            lambda: both.reconstruct(bench.features),
            lambda: _decoded(
                lambda z: sum(average(z) for average in both.network.averages) / averaged.members,
                mean,
                (read - centre) * scale,
            ),
        ),
        Case(
            "substitute",
            "training",
            steps * aligned.batch_size,
            lambda: _alignment(aligned, bench),
            lambda: _plain_alignment(aligned, bench),
        ),
    ]


def _trained(training: DecoderTraining) -> FloatArray:
    training.run(silent)
    return np.array([point.training_mse for point in training.curve[1:]])


@torch.no_grad()
def _decoded(network: Callable[[Tensor], Tensor], mean: Tensor, inputs: Tensor) -> FloatArray:
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    return (mean + network(inputs)).clamp(0.0, 1.0).numpy()


def _plain_decoder(bench: Bench, epochs: int, batch_size: int) -> FloatArray:
    """Train on the same features in the same order, and validate after the same steps."""
    shape, images = bench.features.shape[1:], bench.auxiliary.images
    network = DecoderNetwork(
        (shape[0], shape[1], shape[2]),
        (1, bench.size_px, bench.size_px),
        CAPACITIES["small"],
        seeds.torch_generator(SEED, "residual_decoder weights"),
    ).to(memory_format=torch.channels_last)
    order = seeds.torch_generator(SEED, "residual_decoder batches")
    optimiser = torch.optim.Adam(network.parameters(), RATE, fused=True)
    z = torch.from_numpy(bench.normalise(bench.deployed.query(images, 1)))
    z = z.contiguous(memory_format=torch.channels_last)
    held_out = torch.from_numpy(bench.normalise(bench.deployed.query(bench.validation.images, 0)))
    mean = torch.from_numpy(bench.mean)
    targets = torch.from_numpy(images) - mean
    found = []
    _decoded(network, mean, held_out)
    for _ in range(epochs):
        total = 0.0
        for batch in torch.randperm(len(z), generator=order).split(batch_size):
            loss = functional.mse_loss(network(z[batch]), targets[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += float(loss.detach()) * len(batch)
        found.append(total / len(z))
        _decoded(network, mean, held_out)
    return np.array(found)


def _plain_averaged(options: AveragedDecoderOptions, bench: Bench, epochs: int) -> FloatArray:
    """Train every network on its own, and its moving average, and validate the mean of them."""
    shape, images = bench.features.shape[1:], bench.auxiliary.images
    z = torch.from_numpy(bench.normalise(bench.deployed.query(images, 1)))
    z = z.contiguous(memory_format=torch.channels_last)
    held_out = torch.from_numpy(bench.normalise(bench.deployed.query(bench.validation.images, 0)))
    mean = torch.from_numpy(bench.mean)
    targets = torch.from_numpy(images) - mean
    found = np.zeros(epochs)
    for member in range(options.members):
        network = DecoderNetwork(
            (shape[0], shape[1], shape[2]),
            (1, bench.size_px, bench.size_px),
            CAPACITIES["small"],
            seeds.torch_generator(SEED, "averaged_decoder weights", member),
        ).to(memory_format=torch.channels_last)
        average = copy.deepcopy(network)
        order = seeds.torch_generator(SEED, "averaged_decoder batches")
        optimiser = torch.optim.Adam(network.parameters(), options.learning_rate, fused=True)
        steps = 0
        _decoded(average, mean, held_out)
        for epoch in range(epochs):
            for batch in torch.randperm(len(z), generator=order).split(options.batch_size):
                loss = functional.mse_loss(network(z[batch]), targets[batch])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                steps += 1
                share = 1 - min(options.decay, (1 + steps) / (10 + steps))
                with torch.no_grad():
                    for kept, moved in zip(average.parameters(), network.parameters(), strict=True):
                        kept.lerp_(moved, share)
                found[epoch] += float(loss.detach()) * len(batch) / len(z) / options.members
            _decoded(average, mean, held_out)
    return found


def _alignment(options: SubstituteOptions, bench: Bench) -> FloatArray:
    alignment = Alignment(options, bench.architecture, bench.auxiliary, bench.features, SEED)
    alignment.run()
    return alignment.query(bench.validation.images[:4], 0)


def _plain_alignment(options: SubstituteOptions, bench: Bench) -> FloatArray:
    """Align the same substitute in one loop."""
    images = bench.auxiliary.images
    with seeds.global_stream(seeds.torch_generator(SEED, "substitute weights")):
        front_end = FRONT_ENDS.create(
            bench.architecture.name, bench.architecture.options, image_shape=images.shape[1:]
        )
    rng = seeds.torch_generator(SEED, "substitute discriminator")
    judge = discriminator(bench.features.shape[1], options.discriminator_width, rng)
    mean = torch.from_numpy(images.mean(axis=(0, 2, 3), keepdims=True))
    deviation = images.std(axis=(0, 2, 3), keepdims=True)
    std = torch.from_numpy(np.maximum(deviation, 1e-3))
    normalise = type(bench.normalise).fit(bench.features)
    centre, scale = torch.from_numpy(normalise.centre), torch.from_numpy(normalise.scale)
    targets = torch.from_numpy(normalise(bench.features))
    own = torch.optim.Adam(front_end.parameters(), options.learning_rate)
    theirs = torch.optim.Adam(judge.parameters(), options.learning_rate)
    rng = seeds.torch_generator(SEED, "substitute batches")
    front_end.train()
    for step in range(options.steps):
        chosen = torch.randperm(len(images), generator=rng)[: options.batch_size]
        x = torch.from_numpy(augmentation.vary(images[chosen.numpy()], SEED, step))
        real = targets[torch.randperm(len(targets), generator=rng)[: options.batch_size]]
        made = (front_end((x - mean) / std) - centre) * scale
        loss = discrepancy(made, real, rng)
        loss = loss + options.adversarial_weight * functional.softplus(-judge(made)).mean()
        own.zero_grad()
        loss.backward()
        own.step()
        said = judge(torch.cat([real, made.detach()]))
        ours, others = said[: len(real)], said[len(real) :]
        blame = functional.softplus(-ours).mean() + functional.softplus(others).mean()
        theirs.zero_grad()
        blame.backward()
        theirs.step()
        decay = 0.5 * (1 + np.cos(np.pi * step / options.steps))
        own.param_groups[0]["lr"] = options.learning_rate * decay
    front_end.eval()
    with torch.no_grad():
        shown = torch.from_numpy(bench.validation.images[:4])
        return front_end((shown - mean) / std).numpy()
