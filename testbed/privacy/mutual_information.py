"""Variational lower bounds on the mutual information I(x; z), in nats.

For a deterministic front-end and continuous images I(x; z) is infinite. The reported value is a
lower bound, the part of it that a critic of a given size finds. The critic is trained on one part
of the pairs, its best epoch is chosen on a second, and the bound is evaluated on a third.

- ``mine``: Donsker-Varadhan, E[T] - log E[exp T'], with an unbounded critic.
- ``mine_bounded``: the same with a sigmoid on the critic, as published with SiftFunnel. E[T] - log
  E[exp T'] of a T in (0, 1) is below 1 nat for any data: a relative score, not an estimate.
- ``infonce``: at most log(batch), which is returned too. Near it the bound is saturated.

A critic that has not learned gives a low bound for any features, also for those that leak most. On
the same held-out pairs each bound is therefore compared with InfoNCE of a critic in closed form
(Gaussian, around a ridge regression of the images' principal components), which is a lower bound
too. A bound clearly below 0, or below ``LEAST_SHARE`` of what the closed form finds, is no finding:
the critic failed, and the bound is reported as missing.

References
----------
Belghazi et al., Mutual information neural estimation, ICML 2018, equation 10. Van den Oord, Li,
Vinyals, arXiv 1807.03748, equation 4; Poole et al., On variational bounds of mutual information,
ICML 2019, section 2.2.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from testbed.adversaries.base import FloatArray
from testbed.adversaries.decoder_network import update
from testbed.core import seeds
from testbed.core.compute import compute_device, on_device
from testbed.core.plain_torch import without_weights

Estimator = Literal["mine", "mine_bounded", "infonce"]
ESTIMATORS: tuple[Estimator, ...] = ("mine", "mine_bounded", "infonce")
SATURATED_SHARE = 0.9
"""Of the ceiling: from here on InfoNCE hardly tells features apart."""

LEAST_SHARE = 0.8
"""Of what a linear critic certainly finds: a critic that finds less has failed."""

SAMPLING_ERRORS = 2.0
"""Standard errors below what the linear critic finds, that it finds for certain."""

NEGLIGIBLE_NATS = 0.1
"""So little may be found by chance, or missed; bounds that are so little below 0 are 0."""

_EMBEDDING = 32
_HIDDEN = 64
_COMPONENTS = 16
_RIDGES = (0.01, 0.1, 1.0, 10.0)


@dataclass(frozen=True)
class InformationBound:
    """A lower bound on I(x; z).

    Attributes
    ----------
    nats : the bound, evaluated on held-out pairs; None if features or pairs do not allow it.
    ceiling_nats : largest possible value of the estimator for any data, None if unlimited.
    held_out : number of pairs of the evaluation.
    reason : why there is no bound, in words; empty if there is one.
    saturated : whether the bound is near its ceiling, so that the information may be far larger.
    """

    nats: float | None
    ceiling_nats: float | None
    held_out: int
    reason: str = ""
    saturated: bool = False


@dataclass(frozen=True)
class CriticTraining:
    """Size of the training; the defaults converge on 1,000 pairs in seconds."""

    epochs: int = 60
    batch_size: int = 64
    learning_rate: float = 0.002
    patience: int = 10

    @property
    def fewest_pairs(self) -> int:
        """The least number of pairs: two batches to train on, one to choose, one to evaluate."""
        return 4 * self.batch_size


class Critic(nn.Module):
    """T(x, z) = a(x) . b(z) + c(x) + d(z): all pairs of a batch cost one matrix product.

    a, c and b, d are outputs of one two-layer network per side, fed with standardised samples.
    """

    def __init__(self, x_size: int, z_size: int, bounded: bool, rng: torch.Generator) -> None:
        super().__init__()
        self.bounded = bounded
        self.x_side, self.z_side = _side(x_size, rng), _side(z_size, rng)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Return T of every pair: (N, P) and (N, Q) to (N, N), true pairs on the diagonal."""
        a, b = self.x_side(x), self.z_side(z)
        scores = a[:, :-1] @ b[:, :-1].T / math.sqrt(_EMBEDDING)
        scores = scores + a[:, -1:] + b[:, -1:].T
        return torch.sigmoid(scores) if self.bounded else scores


def _side(size: int, rng: torch.Generator) -> nn.Sequential:
    layers = nn.Sequential(_linear(size, _HIDDEN, rng), nn.ReLU(), _linear(_HIDDEN, _HIDDEN, rng))
    layers.extend([nn.ReLU(), _linear(_HIDDEN, _EMBEDDING + 1, rng)])
    return layers


def _linear(inputs: int, outputs: int, rng: torch.Generator) -> nn.Linear:
    layer = without_weights(nn.Linear, inputs, outputs)
    with torch.no_grad():
        layer.weight.normal_(0.0, 1.0 / math.sqrt(inputs), generator=rng)
        layer.bias.zero_()
    return layer


def donsker_varadhan(scores: Tensor) -> Tensor:
    """Return E[T] over true pairs minus log E[exp T] over the others of an (N, N) score matrix."""
    count = len(scores)
    others = scores.masked_fill(torch.eye(count, dtype=torch.bool, device=scores.device), -math.inf)
    log_mean = torch.logsumexp(others.flatten(), dim=0) - math.log(count * (count - 1))
    return scores.diagonal().mean() - log_mean


def info_nce(scores: Tensor) -> Tensor:
    """Return log N minus the cross-entropy of classifying the true z of each x; at most log N."""
    targets = torch.arange(len(scores), device=scores.device)
    return math.log(len(scores)) - functional.cross_entropy(scores, targets)


def estimate_information(
    images: FloatArray,
    features: FloatArray,
    estimator: Estimator,
    seed: int,
    training: CriticTraining | None = None,
) -> InformationBound:
    """Train a critic on half of the pairs and evaluate the bound on the last quarter.

    Parameters
    ----------
    images, features : paired samples, (N, ...), at least 4 batches; fewer give no bound.
    estimator : the bound.
    seed : of weights and batches; the pairs are split in their order, so shuffle them first.

    Raises
    ------
    ValueError : the two do not pair up.
    """
    if len(images) != len(features):
        raise ValueError(f"{len(images)} images and {len(features)} features do not pair up")
    training = training or CriticTraining()
    size, half, rest = training.batch_size, len(images) // 2, 3 * len(images) // 4
    ceiling = {"mine": None, "mine_bounded": 1.0, "infonce": math.log(size)}[estimator]
    if obstacle := _obstacle(features, training):
        return InformationBound(None, ceiling, len(images) - rest, obstacle)
    x, z = _standardised(images, half), _standardised(features, half)
    bound: Callable[[Tensor], Tensor] = info_nce if estimator == "infonce" else donsker_varadhan
    rng = seeds.torch_generator(seed, f"information {estimator}")
    critic = Critic(x.shape[1], z.shape[1], estimator == "mine_bounded", rng).to(compute_device())
    optimiser = torch.optim.Adam(critic.parameters(), training.learning_rate, fused=True)
    best, best_weights, stale = -math.inf, copy.deepcopy(critic.state_dict()), 0
    for _ in range(training.epochs):
        for batch in torch.split(torch.randperm(half, generator=rng), size):
            if len(batch) < size:
                continue
            loss = -bound(critic(x[batch], z[batch]))
            update(optimiser, loss)
        chosen = _evaluate(critic, bound, x[half:rest], z[half:rest], size)
        stale += 1
        if chosen > best:
            best, best_weights, stale = chosen, copy.deepcopy(critic.state_dict()), 0
        if stale == training.patience:
            break
    critic.load_state_dict(best_weights)
    nats = _evaluate(critic, bound, x[rest:], z[rest:], size)
    linear, error = _closed_form(x, z, half, rest, size)
    fault = _fault(nats, linear - SAMPLING_ERRORS * error, estimator == "mine_bounded")
    if fault:
        return InformationBound(None, ceiling, len(images) - rest, fault)
    # Hardly below 0: nothing was found, and 0 is a bound whatever the features.
    saturated = estimator == "infonce" and nats > SATURATED_SHARE * math.log(size)
    return InformationBound(max(0.0, nats), ceiling, len(images) - rest, saturated=saturated)


def _fault(nats: float, known: float, relative: bool) -> str:
    """Return why a critic failed, or an empty text.

    Parameters
    ----------
    known : what the closed-form critic certainly finds on the same pairs.
    relative : whether the estimator's values are no nats, so that only their sign compares.
    """
    if not math.isfinite(nats):
        return "its critic failed: the training diverged"
    if known > NEGLIGIBLE_NATS and (nats <= 0.0 if relative else nats < LEAST_SHARE * known):
        return (
            f"its critic failed: {nats:.2g} nats on held-out pairs, on which a linear critic in "
            f"closed form finds at least {known:.2g}"
        )
    if nats < -NEGLIGIBLE_NATS:
        return (
            f"its critic failed: {nats:.2g} nats on held-out pairs, and no information is below 0"
        )
    return ""


def _closed_form(x: Tensor, z: Tensor, half: int, rest: int, size: int) -> tuple[float, float]:
    """Return InfoNCE of a linear Gaussian critic on the held-out pairs, and its standard error.

    T(x, z) = log N(x; a(z), r) / N(x; 0, v) over the images' principal components, with a(z) by
    ridge regression. Regression and r are made of the training half (leave-one-out residuals).
    """
    images, features = x.double(), z.double()
    images, features = images - images[:half].mean(dim=0), features - features[:half].mean(dim=0)
    products = images @ images[:half].T
    values, vectors = torch.linalg.eigh(products[:half])
    # Principal components from inner products alone, which are fewer than pixels.
    targets = products @ vectors[:, -_COMPONENTS:] * values[-_COMPONENTS:].clamp_min(1e-12).rsqrt()
    live = targets[:half].var(dim=0) > 1e-9
    power = features[:half].square().sum(dim=1).mean()
    if not bool(live.any()) or float(power) == 0.0:
        return 0.0, 0.0
    targets = targets[:, live]
    kernel = features @ features[:half].T / power
    fits = []
    for ridge in _RIDGES:
        inverse = torch.linalg.inv(kernel[:half] + ridge * torch.eye(half).to(kernel))
        weights = inverse @ targets[:half]
        fits.append((weights, (weights / inverse.diagonal()[:, None]).square().mean(dim=0)))
    weights, residuals = min(fits, key=lambda fit: float(fit[1].log().sum()))
    spread = targets[:half].var(dim=0)
    told = residuals < spread  # a component that is not predicted adds noise to the scores
    if not bool(told.any()):
        return 0.0, 0.0
    guessed, true = (kernel[rest:] @ weights)[:, told], targets[rest:, told]
    r, v = residuals[told], spread[told]
    gaps = (true[:, None, :] - guessed[None, :, :]).square() / (2.0 * r)
    scores = (true.square() / (2.0 * v))[:, None, :] - gaps + 0.5 * (v / r).log()
    total = scores.sum(dim=2)
    starts = range(0, len(total) - size + 1, size)
    of_pairs = torch.cat(
        [total[i : i + size, i : i + size].log_softmax(dim=1).diagonal() for i in starts]
    )
    error = float(of_pairs.std()) / math.sqrt(len(of_pairs))
    return math.log(size) + float(of_pairs.mean()), error


def _obstacle(features: FloatArray, training: CriticTraining) -> str:
    """Return the reason why there is no bound, or an empty text."""
    if len(features) < training.fewest_pairs:
        return f"too few pairs: {len(features)} of the {training.fewest_pairs} required"
    return "" if np.isfinite(features).all() else "the features are not finite"


@torch.no_grad()
def _evaluate(
    critic: Critic, bound: Callable[[Tensor], Tensor], x: Tensor, z: Tensor, size: int
) -> float:
    """Average InfoNCE over full batches; evaluate Donsker-Varadhan on all pairs at once.

    A mean of batch-wise log E[exp T] would be biased upwards (Jensen).
    """
    if bound is donsker_varadhan:
        return float(bound(critic(x, z)))
    starts = range(0, len(x) - size + 1, size)
    values = [bound(critic(x[i : i + size], z[i : i + size])) for i in starts]
    return float(torch.stack(values).mean())


def _standardised(samples: FloatArray, half: int) -> Tensor:
    """Flatten and standardise by the training half; elements that are constant there become 0."""
    flat = samples.reshape(len(samples), -1).astype(np.float64)
    centre, deviation = flat[:half].mean(axis=0), flat[:half].std(axis=0)
    live = deviation > 1e-6 * (np.abs(centre) + deviation)
    scaled = (flat - centre) * np.where(live, 1.0 / np.where(live, deviation, 1.0), 0.0)
    return on_device(np.clip(scaled, -10.0, 10.0).astype(np.float32))
