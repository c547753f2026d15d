"""Attacks that learn during training, against plain loops over the same steps.

The fleet does not train: every step shows the features of the same images, so that only the work of
the attack is timed.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from attack_speed.bench import CLASSES, SEED, Bench, Case
from testbed.adversaries.base import FloatArray
from testbed.adversaries.fsha import CRITIC, PILOT, Fsha, FshaOptions
from testbed.adversaries.mounting import mount
from testbed.adversaries.sdar import FEATURE_JUDGE, IMAGE_JUDGE, SIMULATOR, Sdar, SdarOptions
from testbed.adversaries.shadow_front_end import (
    discrepancy,
)
from testbed.adversaries.training_attacker import (
    DECODER,
    SCALE,
    TrainingAttacker,
    TrainingView,
    WatchedStep,
)
from testbed.core import seeds

SHOWN = 40


def cases(bench: Bench, steps: int) -> list[Case]:
    """Return the training of ``sdar`` and ``fsha``, and the reconstruction that they share."""
    shape = bench.features.shape[1:]
    view = TrainingView(
        CLASSES, bench.auxiliary, bench.architecture, (shape[0], shape[1], shape[2])
    )
    sdar, fsha = SdarOptions(), FshaOptions(pilot_steps=2 * steps)
    shown = torch.from_numpy(bench.auxiliary_features[:SHOWN])
    targets = functional.one_hot(torch.from_numpy(bench.auxiliary.labels[:SHOWN]), CLASSES).float()
    cloud = nn.Linear(int(np.prod(shape)), CLASSES)
    cloud.weight.data.normal_(0.0, 0.01, generator=seeds.torch_generator(SEED, "cloud"))

    step = WatchedStep([shown], [targets], [shown], lambda z: cloud(z.flatten(1)))

    def watched(training_attacker: TrainingAttacker) -> TrainingAttacker:
        for _ in range(steps):
            training_attacker.watch(step)
        return training_attacker

    learned = watched(Sdar(sdar).training_attacker(view, SEED))
    evidence = replace(bench.evidence, trained=learned.memory())
    options = sdar.model_dump()
    per_step = sdar.updates_per_step * sdar.batch_size
    pilot = fsha.pilot_steps * fsha.batch_size
    return [
        Case(
            "sdar",
            "training",
            steps * per_step,
            lambda: _decoder_weights(watched(Sdar(sdar).training_attacker(view, SEED))),
            lambda: _decoder_weights(
                _plain_sdar(
                    sdar, Sdar(sdar).training_attacker(view, SEED), shown, targets, cloud, steps
                )
            ),
        ),
        Case(
            "sdar, fsha",
            "reconstruction",
            len(bench.features),
            lambda: mount("sdar", options, evidence, SEED).images,
            lambda: _plain_decoding(learned, bench),
        ),
        Case(
            "fsha",
            "training",
            pilot + steps * fsha.updates_per_step * fsha.batch_size,
            lambda: _decoder_weights(watched(Fsha(fsha).training_attacker(view, SEED))),
            lambda: _decoder_weights(
                _plain_fsha(fsha, Fsha(fsha).training_attacker(view, SEED), shown, targets, steps)
            ),
        ),
    ]


def _decoder_weights(training_attacker: TrainingAttacker) -> FloatArray:
    parameters = training_attacker.networks[DECODER].parameters()
    return torch.cat([p.detach().flatten() for p in parameters]).numpy()


@torch.no_grad()
def _plain_decoding(learned: TrainingAttacker, bench: Bench) -> FloatArray:
    """Decode with the existing networks."""
    return learned.decoded(torch.from_numpy(bench.features)).clamp(0.0, 1.0).numpy()


def _stepped(optimiser: torch.optim.Optimizer, loss: Tensor, retain: bool = False) -> None:
    optimiser.zero_grad()
    loss.backward(retain_graph=retain)
    optimiser.step()


def _plain_sdar(
    options: SdarOptions,
    fresh: TrainingAttacker,
    sent: Tensor,
    labels: Tensor,
    cloud: nn.Module,
    steps: int,
) -> TrainingAttacker:
    """Train new networks in one loop, including full backward passes."""
    networks, rate = fresh.networks, options.learning_rate
    simulator, decoder = networks[SIMULATOR], networks[DECODER]
    feature_judge, image_judge, scale = (
        networks[FEATURE_JUDGE],
        networks[IMAGE_JUDGE],
        networks[SCALE],
    )
    a, b, c, d = (
        torch.optim.Adam(networks[name].parameters(), rate)
        for name in (SIMULATOR, DECODER, FEATURE_JUDGE, IMAGE_JUDGE)
    )
    for step in range(steps):
        scale.update(sent)
        rng = fresh.rng("batches", step)
        for _ in range(options.updates_per_step):
            x, own = fresh.auxiliary_batch(options.batch_size, rng)
            chosen = torch.randperm(len(sent), generator=rng)[: options.batch_size]
            read, theirs = sent[chosen], labels[chosen]
            real = scale(read)
            features = simulator(x)
            made = scale(features)
            loss = functional.cross_entropy(cloud(features.flatten(1)), own)
            loss = loss + options.discrepancy_weight * discrepancy(made, real, rng)
            fooled = functional.softplus(-feature_judge(made, own)).mean()
            _stepped(a, loss + options.feature_weight * fooled)
            told = functional.softplus(-feature_judge(real, theirs)).mean()
            told = told + functional.softplus(feature_judge(made.detach(), own)).mean()
            _stepped(c, told)
            error = functional.mse_loss(fresh.mean + decoder(scale(features.detach())), x)
            rebuilt = fresh.mean + decoder(real)
            passed = functional.softplus(-image_judge(rebuilt, theirs)).mean()
            _stepped(b, error + options.image_weight * passed)
            told = functional.softplus(-image_judge(x, own)).mean()
            told = told + functional.softplus(image_judge(rebuilt.detach(), theirs)).mean()
            _stepped(d, told)
    return fresh


def _plain_fsha(
    options: FshaOptions, fresh: TrainingAttacker, sent: Tensor, labels: Tensor, steps: int
) -> TrainingAttacker:
    """Train pilot and discriminator in one loop, and compute the gradients that are sent."""
    networks, rate = fresh.networks, options.learning_rate
    pilot, decoder, critic, scale = (networks[name] for name in (PILOT, DECODER, CRITIC, SCALE))
    pair = torch.optim.Adam([*pilot.parameters(), *decoder.parameters()], rate)
    judge = torch.optim.Adam(critic.parameters(), rate)
    rng = fresh.rng("pilot batches")
    pilot.train()
    for _ in range(options.pilot_steps):
        x, _ = fresh.auxiliary_batch(options.batch_size, rng)
        features = pilot(x)
        scale.update(features.detach())
        _stepped(pair, functional.mse_loss(fresh.mean + decoder(scale(features)), x))
    pilot.eval()
    for step in range(steps):
        rng = fresh.rng("batches", step)
        seen = scale(sent)
        for _ in range(options.updates_per_step):
            x, own = fresh.auxiliary_batch(options.batch_size, rng)
            with torch.no_grad():
                wanted = scale(pilot(x))
            chosen = torch.randperm(len(seen), generator=rng)[: options.batch_size]
            told = functional.softplus(-critic(wanted, own)).mean()
            told = told + functional.softplus(critic(seen[chosen], labels[chosen])).mean()
            _stepped(judge, told)
        steered = sent.clone().requires_grad_()
        seen = scale(steered)
        loss = functional.softplus(-critic(seen, labels)).mean()
        loss = loss + options.discrepancy_weight * discrepancy(seen, wanted, rng)
        torch.autograd.grad(loss, steered)
    return fresh
