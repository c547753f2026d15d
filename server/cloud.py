"""The cloud half of an arm in the ServerApp's process: training steps and answers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from server.entry_layers import TieredCloudModel
from testbed.core.compute import compute_device, on_device
from testbed.core.layers import running_weight, set_statistics_momentum
from testbed.core.seeds import global_stream, torch_generator
from testbed.core.state_dicts import below, load_optimiser, optimiser_tensors, under
from testbed.core.threads import torch_threads
from testbed.scenario.training import CloudOptimiserSection

ANSWER_CHUNK = 64  # features per forward pass when answering


@dataclass(frozen=True)
class CloudStep:
    """One training step of the cloud model.

    Attributes
    ----------
    gradients : per device, d(mean loss of its batch) / d(its features).
    loss, accuracy : over the whole cohort's batch; accuracy against the most likely target.
    """

    gradients: list[Tensor]
    loss: float
    accuracy: float


class Cloud:
    """The shared cloud model with its optimiser.

    Parameters
    ----------
    model : the shared cloud half, with an entry per tier.
    threads : torch threads of every computation here.

    Attributes
    ----------
    steps : training steps taken so far.
    """

    def __init__(
        self, model: TieredCloudModel, optimiser: CloudOptimiserSection, seed: int, threads: int
    ) -> None:
        self.model = model.to(compute_device()).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.threads = threads
        self.steps = 0
        self._seed = seed
        self._learning_rate = optimiser.learning_rate
        self.optimiser = torch.optim.Adam(
            model.parameters(),
            lr=optimiser.learning_rate,
            betas=(optimiser.betas[0], optimiser.betas[1]),
            weight_decay=optimiser.weight_decay,
        )

    def scale_learning_rate(self, scale: float) -> None:
        """Set the learning rate to ``scale`` times the scenario's."""
        for group in self.optimiser.param_groups:
            group["lr"] = self._learning_rate * scale

    def accepts(self, features: Tensor, targets: Tensor, tier: int) -> bool:
        """Return whether features and targets have the shapes of the tier."""
        shape, classes = self.model.shapes[tier], self.model.num_classes
        return tuple(features.shape[1:]) == shape and tuple(targets.shape[1:]) == (classes,)

    def step(
        self,
        features: Sequence[Tensor],
        targets: Sequence[Tensor],
        server_round: int,
        step: int,
        tiers: Sequence[int] | None = None,
    ) -> CloudStep:
        """Update the model on the cohort's features, (n_i, C', H', W') and targets (n_i, K).

        The loss is the Kullback-Leibler divergence from the targets, averaged over samples.

        Parameters
        ----------
        tiers : the tier of each device's features; None: all of tier 0.
        """
        dropout = torch_generator(self._seed, "cloud dropout", server_round, step)
        with torch_threads(self.threads), global_stream(dropout):
            self.model.train()
            set_statistics_momentum(self.model, running_weight(self.steps))
            self.steps += 1
            tier_of = list(tiers) if tiers is not None else [0] * len(features)
            order = sorted(range(len(features)), key=lambda index: tier_of[index])
            sizes = [len(features[index]) for index in order]
            received, entered = [], []
            for tier in sorted(set(tier_of)):
                of_tier = [features[index] for index in order if tier_of[index] == tier]
                z = on_device(torch.cat(of_tier)).contiguous(memory_format=torch.channels_last)
                received.append(z.requires_grad_())
                entered.append(self.model.enter(z, tier))
            wanted = on_device(torch.cat([targets[index] for index in order]))
            logits = self.model.trunk(entered[0] if len(entered) == 1 else torch.cat(entered))
            loss = functional.kl_div(
                functional.log_softmax(logits, dim=1), wanted, reduction="batchmean"
            )
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()
            correct = logits.detach().argmax(dim=1) == wanted.argmax(dim=1)
            return CloudStep(
                self._gradients(received, order, sizes),
                float(loss.detach()),
                float(correct.float().mean()),
            )

    @staticmethod
    def _gradients(
        received: Sequence[Tensor], order: Sequence[int], sizes: Sequence[int]
    ) -> list[Tensor]:
        """Split the tiers' gradients into the devices', in the devices' order."""
        total, gradients = sum(sizes), [Tensor()] * len(sizes)
        devices = iter(zip(order, sizes, strict=True))
        for z in received:
            assert z.grad is not None
            start = 0
            while start < len(z):
                index, size = next(devices)
                # Each device's loss is the mean over its own batch, not over the cohort's.
                gradients[index] = z.grad[start : start + size] * (total / size)
                start += size
        return gradients

    def answer(self, features: Tensor, tier: int = 0) -> Tensor:
        """Return log-probabilities (N, K), on the CPU, for one tier's features (N, C', H', W')."""
        with torch_threads(self.threads), torch.no_grad():
            self.model.eval()
            parts = [
                functional.log_softmax(
                    self.model(on_device(part).contiguous(memory_format=torch.channels_last), tier),
                    dim=1,
                )
                for part in torch.split(features, ANSWER_CHUNK)
            ]
        return torch.cat(parts).cpu()

    def state(self) -> dict[str, Tensor]:
        """Return model and optimiser as flat tensors, for a checkpoint."""
        tensors = under("model.", self.model.state_dict())
        tensors |= under("optimiser.", optimiser_tensors(self.optimiser))
        tensors["steps"] = torch.tensor(self.steps)
        return {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Restore what ``state`` returned."""
        self.steps = int(tensors["steps"])
        self.model.load_state_dict(below("model.", tensors))
        load_optimiser(self.optimiser, below("optimiser.", tensors))
