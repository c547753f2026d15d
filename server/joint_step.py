"""One step over both halves: the joint loss, its optimiser, and the defences' adversaries."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from server.edge_interface import EdgeBatch, ProviderTier
from server.entry_layers import TieredCloudModel
from server.machine import DTYPES
from testbed.core.state_dicts import below, load_optimiser, optimiser_tensors, under
from testbed.scenario.training import ProviderOptimiserSection, ProviderSection

Weights = dict[str, Tensor]


class JointStep:
    """Trains both halves with one optimiser, and adversaries in alternation with another.

    Parameters
    ----------
    tiers, cloud : the halves, already on ``device`` and trained in place.
    """

    def __init__(
        self,
        section: ProviderSection,
        tiers: Sequence[ProviderTier],
        cloud: TieredCloudModel,
        device: torch.device,
    ) -> None:
        self._section, self._tiers, self._cloud, self._device = section, tiers, cloud, device
        total = sum(tier.share for tier in tiers)
        self._shares = [tier.share / total for tier in tiers]
        adversaries = {id(value) for tier in tiers for value in tier.edge.own_adversary().values()}
        everything = [p for tier in tiers for p in tier.edge.own_parameters().values()]
        everything += cloud.parameters()
        self._parameters = [value for value in everything if id(value) not in adversaries]
        self._optimiser = _optimiser(section.optimiser, self._parameters)
        self._adversaries = _adversaries(tiers)
        self._scaler = torch.amp.GradScaler(device.type, enabled=section.precision == "fp16")

    def scale_learning_rates(self, scale: float) -> None:
        """Set every learning rate to ``scale`` times its own."""
        for optimiser in self._optimisers().values():
            for group in optimiser.param_groups:
                group["lr"] = group["base_lr"] * scale

    def step(self, x: Tensor, labels: Tensor, release: torch.Generator) -> Tensor:
        """Train on images in [0, 1] (N, C, H, W); return task loss, penalty and accuracy (3,).

        Parameters
        ----------
        labels : int64 (N,), on the CPU.
        release : the defences' random draws.
        """
        on_device = labels.to(self._device)
        with self._autocast():
            batches = [tier.edge.own_batch(x, on_device, release) for tier in self._tiers]
            entered = [
                self._cloud.enter(batch.released, tier.entry)
                for batch, tier in zip(batches, self._tiers, strict=True)
            ]
            together = entered[0] if len(entered) == 1 else torch.cat(entered)
            logits = self._cloud.trunk(together).float()
        loss, figures = self._loss(batches, logits.split(len(x)), labels)
        self._optimiser.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        # Both players are updated from the same weights.
        self._adversary_gradients(batches)
        if self._section.optimiser.clip_norm is not None:
            self._scaler.unscale_(self._optimiser)
            nn.utils.clip_grad_norm_(self._parameters, self._section.optimiser.clip_norm)
        self._scaler.step(self._optimiser)
        self._scaler.update()
        if self._adversaries is not None:
            self._adversaries.step()
        return figures

    def _autocast(self) -> torch.autocast:
        precision = self._section.precision
        dtype = DTYPES[precision] if precision != "fp32" else torch.bfloat16
        return torch.autocast(self._device.type, dtype=dtype, enabled=precision != "fp32")

    def _loss(
        self, batches: Sequence[EdgeBatch], logits: Sequence[Tensor], labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        loss = torch.zeros((), device=self._device)
        figures = torch.zeros(3, dtype=torch.float64, device=self._device)
        for tier, share, batch, scores in zip(
            self._tiers, self._shares, batches, logits, strict=True
        ):
            defence = tier.edge.defence
            targets = defence.targets(labels, scores.shape[1]).to(self._device)
            log_probabilities = functional.log_softmax(scores, dim=1)
            task = functional.kl_div(log_probabilities, targets, reduction="batchmean")
            penalty = defence.penalty(batch)
            if penalty is None:
                penalty = torch.zeros_like(task)
            loss = loss + share * (defence.task_weight * task + penalty)
            correct = (scores.argmax(dim=1) == targets.argmax(dim=1)).double().mean()
            parts = torch.stack([task.detach().double(), penalty.detach().double(), correct])
            figures += share * parts
        return loss, figures

    def _adversary_gradients(self, batches: Sequence[EdgeBatch]) -> None:
        """Set the adversaries' gradients, on detached features."""
        for tier, batch in zip(self._tiers, batches, strict=True):
            leaves = list(tier.edge.own_adversary().values())
            if not leaves:
                continue
            loss = tier.edge.defence.adversary_loss(batch.without_gradients())
            gradients = torch.autograd.grad(loss, leaves, materialize_grads=True)
            for leaf, gradient in zip(leaves, gradients, strict=True):
                leaf.grad = gradient

    # State ---------------------------------------------------------------------------------------

    def _optimisers(self) -> dict[str, torch.optim.Optimizer]:
        optimisers = {"both": self._optimiser}
        if self._adversaries is not None:
            optimisers["adversaries"] = self._adversaries
        return optimisers

    def state(self) -> tuple[Weights, dict[str, Any]]:
        """Return the optimisers' moments, and the scaler's state."""
        tensors: Weights = {}
        for kind, optimiser in self._optimisers().items():
            tensors |= under(f"{kind}.", optimiser_tensors(optimiser))
        copies = {name: value.detach().cpu().clone() for name, value in tensors.items()}
        return copies, self._scaler.state_dict()

    def load_state(self, tensors: Weights, scaler: dict[str, Any]) -> None:
        """Restore what ``state`` returned."""
        for kind, optimiser in self._optimisers().items():
            load_optimiser(optimiser, below(f"{kind}.", tensors))
        self._scaler.load_state_dict(scaler)


def _optimiser(
    section: ProviderOptimiserSection, parameters: list[nn.Parameter]
) -> torch.optim.Optimizer:
    group = [{"params": parameters, "base_lr": section.learning_rate}]
    shared: dict[str, Any] = {
        "lr": section.learning_rate,
        "weight_decay": section.weight_decay,
        "fused": True,
    }
    if section.method == "sgd":
        return torch.optim.SGD(group, momentum=section.momentum, **shared)
    kind = torch.optim.Adam if section.method == "adam" else torch.optim.AdamW
    betas = (section.betas[0], section.betas[1])
    return kind(group, betas=betas, amsgrad=section.amsgrad, **shared)


def _adversaries(tiers: Sequence[ProviderTier]) -> torch.optim.Optimizer | None:
    groups: list[dict[str, Any]] = []
    for tier in tiers:
        for name, value in tier.edge.own_adversary().items():
            rate = tier.edge.defence.adversary_learning_rate(name)
            groups.append({"params": [value], "lr": rate, "base_lr": rate})
    return torch.optim.Adam(groups, fused=True) if groups else None
