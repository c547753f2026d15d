"""Split-federated training as a Flower ServerApp.

One round: send the front-end to a cohort; for every local step receive features, update the one
shared cloud model, return each device its features' gradient; then aggregate the front-ends with a
Flower strategy. Follows SplitFed (arXiv 2004.12088), with a single cloud model as in its variant 2.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.exception import AggregationError
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from server.cloud import Cloud
from testbed.core import protocol
from testbed.core.blocks import running_weight
from testbed.core.encoding import decode
from testbed.core.errors import UserError
from testbed.core.records import to_record, to_tensors
from testbed.core.scenario import TrainingSection
from testbed.core.seeds import generator

MIN_TRAINING_IMAGES = 2  # batch norm needs two
MEAN, VARIANCE = "running_mean", "running_var"
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class RoundRecord:
    """What the server knows after a round; means over the steps."""

    server_round: int
    training_loss: float | None
    training_accuracy: float | None
    penalty: float | None
    cohort: int
    participants: int
    rejected: int


class _CohortView:
    """A Grid that shows a strategy the chosen cohort only, so that it samples nobody else."""

    def __init__(self, grid: Grid, cohort: list[int]) -> None:
        self._grid = grid
        self._cohort = cohort

    def get_node_ids(self) -> Iterable[int]:
        return list(self._cohort)

    def __getattr__(self, name: str) -> object:
        return getattr(self._grid, name)


class SplitFederated:
    """The training loop and its state.

    Parameters
    ----------
    cloud : the shared cloud model.
    strategy : aggregates the trainable front-end parameters. Batch-norm statistics are pooled
        instead, since adaptive strategies would drive variances below zero.
    parameters, statistics : the front-end's first weights.

    Attributes
    ----------
    aggregated_rounds : rounds from which at least one front-end was accepted.
    eligible : nodes that enrolled: they can train and hold enough images.
    """

    def __init__(
        self,
        training: TrainingSection,
        seed: int,
        cloud: Cloud,
        strategy: Strategy,
        parameters: Weights,
        statistics: Weights,
    ) -> None:
        self.training = training
        self.cloud = cloud
        self.strategy = strategy
        self.parameters = parameters
        self.statistics = statistics
        self.next_round = 1
        self.eligible: list[int] = []
        self.aggregated_rounds = 0
        self._seed = seed

    def train(self, grid: Grid, on_round: Callable[[RoundRecord], None]) -> None:
        """Enrol the devices, run the remaining rounds and report each of them."""
        if not self.eligible:
            self.eligible = self._enrol(grid)
        if not self.eligible:
            raise UserError(
                "no device can train this front-end: all are infeasible or hold fewer than "
                f"{MIN_TRAINING_IMAGES} images; change fleet.mix, data or the arm's front_end"
            )
        while self.next_round <= self.training.rounds:
            record = self._round(grid, self.next_round)
            self.next_round += 1
            on_round(record)

    def learning_rate_scale(self, server_round: int) -> float:
        """Return the factor on both learning rates in a round (from 1)."""
        if self.training.learning_rate_schedule == "constant":
            return 1.0
        done = (server_round - 1) / self.training.rounds
        return 0.5 * (1.0 + math.cos(math.pi * done))

    def _enrol(self, grid: Grid) -> list[int]:
        """Ask every node how many images it holds; nodes that cannot train answer an error."""
        messages = [
            Message(RecordDict(), dst_node_id=node, message_type=protocol.ENROL)
            for node in grid.get_node_ids()
        ]
        eligible = []
        for reply in grid.send_and_receive(messages):
            if reply.has_content():
                images = reply.content.metric_records[protocol.METRICS][protocol.NUM_EXAMPLES]
                if isinstance(images, int) and images >= MIN_TRAINING_IMAGES:
                    eligible.append(reply.metadata.src_node_id)
        return sorted(eligible)

    def _cohort(self, server_round: int) -> list[int]:
        size = min(self.training.cohort_size, len(self.eligible))
        rng = generator(self._seed, "cohort", server_round)
        chosen = rng.choice(self.eligible, size, replace=False)
        return sorted(int(node) for node in chosen)

    def _round(self, grid: Grid, server_round: int) -> RoundRecord:
        cohort = self._cohort(server_round)
        first = self._first_contents(grid, server_round, cohort)
        self.cloud.scale_learning_rate(self.learning_rate_scale(server_round))
        active, rejected = cohort, 0
        losses: list[float] = []
        accuracies: list[float] = []
        penalties: list[float] = []
        replies: dict[int, Message] = {}
        for step in range(self.training.local_steps):
            replies = self._exchange(
                grid,
                server_round,
                protocol.FORWARD,
                {n: self._forward(first, n, step) for n in active},
            )
            features = {node: self._checked_features(reply) for node, reply in replies.items()}
            active = [node for node in active if features.get(node) is not None]
            rejected += len(features) - len(active)
            if not active:
                break
            batches = [batch for node in active if (batch := features[node]) is not None]
            result = self.cloud.step(
                [z for z, _ in batches], [targets for _, targets in batches], server_round, step
            )
            losses.append(result.loss)
            accuracies.append(result.accuracy)
            contents = {
                node: self._backward(server_round, step, gradient)
                for node, gradient in zip(active, result.gradients, strict=True)
            }
            replies = self._exchange(grid, server_round, protocol.BACKWARD, contents)
            active = [node for node in active if node in replies]
            penalties.extend(_metric(reply, protocol.PENALTY) for reply in replies.values())
        finished = [replies[node] for node in active]
        accepted = [reply for reply in finished if self._is_sound(reply)]
        self._aggregate(server_round, accepted)
        return RoundRecord(
            server_round,
            _mean(losses),
            _mean(accuracies),
            _mean(penalties),
            len(cohort),
            len(accepted),
            rejected + len(finished) - len(accepted),
        )

    def _first_contents(
        self, grid: Grid, server_round: int, cohort: list[int]
    ) -> dict[int, RecordDict]:
        """Let the strategy configure the round; it may add to the configuration (FedProx does)."""
        arrays = to_record(self.parameters)
        config = ConfigRecord({protocol.SERVER_ROUND: server_round})
        view = _CohortView(grid, cohort)
        configured = self.strategy.configure_train(
            server_round,
            arrays,
            config,
            view,  # type: ignore[arg-type]
        )
        statistics = to_record(self.statistics)
        contents: dict[int, RecordDict] = {}
        shared: dict[int, RecordDict] = {}
        for message in configured:
            # Strategies send one record to all nodes; keep it one, so that it travels once.
            content = shared.setdefault(id(message.content), message.content)
            content[protocol.STATISTICS] = statistics
            content.config_records[protocol.CONFIG][protocol.STEP] = 0
            content.config_records[protocol.CONFIG][protocol.STEPS] = self.training.local_steps
            contents[message.metadata.dst_node_id] = content
        return contents

    def _forward(self, first: dict[int, RecordDict], node: int, step: int) -> RecordDict:
        if step == 0:
            return first[node]
        config = ConfigRecord(dict(first[node].config_records[protocol.CONFIG]))
        config[protocol.STEP] = step
        return RecordDict({protocol.CONFIG: config})

    def _backward(self, server_round: int, step: int, gradient: Tensor) -> RecordDict:
        config = ConfigRecord(
            {
                protocol.SERVER_ROUND: server_round,
                protocol.STEP: step,
                protocol.STEPS: self.training.local_steps,
                protocol.LEARNING_RATE_SCALE: self.learning_rate_scale(server_round),
            }
        )
        gradients = to_record({protocol.Z: gradient})
        return RecordDict({protocol.CONFIG: config, protocol.GRADIENTS: gradients})

    def _exchange(
        self, grid: Grid, server_round: int, message_type: str, contents: Mapping[int, RecordDict]
    ) -> dict[int, Message]:
        """Send one message per node; return the replies that carry content, by node, in order."""
        messages = [
            Message(
                content, dst_node_id=node, message_type=message_type, group_id=str(server_round)
            )
            for node, content in contents.items()
        ]
        replies = [reply for reply in grid.send_and_receive(messages) if reply.has_content()]
        by_node = {reply.metadata.src_node_id: reply for reply in replies}
        return {node: by_node[node] for node in contents if node in by_node}

    def _checked_features(self, reply: Message) -> tuple[Tensor, Tensor] | None:
        """Return features and targets of a reply, or None where they cannot be used."""
        record = reply.content.array_records.get(protocol.FEATURES)
        if record is None or protocol.TARGETS not in record:
            return None
        tensors = to_tensors(record)
        try:
            z, targets = decode(tensors), tensors[protocol.TARGETS]
        except ValueError:
            return None
        sound = len(z) == len(targets) > 0 and bool(torch.isfinite(z).all())
        return (z, targets) if sound else None

    def _is_sound(self, reply: Message) -> bool:
        """Whether a device's new front-end has the right names and shapes and is finite."""
        arrays = reply.content.array_records.get(protocol.ARRAYS)
        statistics = reply.content.array_records.get(protocol.STATISTICS)
        return (
            arrays is not None
            and statistics is not None
            and _matches(arrays, self.parameters)
            and _matches(statistics, self.statistics)
        )

    def _aggregate(self, server_round: int, replies: list[Message]) -> None:
        if not replies:
            return
        for_strategy = []
        for reply in replies:
            metrics = MetricRecord(
                {protocol.NUM_EXAMPLES: int(_metric(reply, protocol.NUM_EXAMPLES))}
            )
            content = RecordDict(
                {protocol.ARRAYS: reply.content[protocol.ARRAYS], protocol.METRICS: metrics}
            )
            stripped = Message(content, reply_to=reply)
            for_strategy.append(stripped)
        try:
            arrays, _ = self.strategy.aggregate_train(server_round, for_strategy)
        except (AggregationError, ValueError) as error:
            name = type(self.strategy).__name__
            raise UserError(
                f"training.strategy: {name} could not aggregate {len(replies)} replies ({error})"
            ) from error
        if arrays is not None:
            merged = to_tensors(arrays)
            self.parameters = {name: merged[name].float() for name in self.parameters}
        pooled = _pool_statistics(replies, self.statistics)
        steps = self.training.local_steps
        weight = running_weight(self.aggregated_rounds * steps, steps)
        self.aggregated_rounds += 1
        self.statistics = {
            name: torch.lerp(before, pooled[name], weight)
            for name, before in self.statistics.items()
        }


def _pool_statistics(replies: list[Message], like: Weights) -> Weights:
    """Pool the devices' batch-norm statistics, weighted by their number of examples.

    Means are averaged; the pooled variance is the mean variance within devices plus the variance
    between their means, without which unlike devices look more alike than their union is.
    """
    weights = np.array([_metric(reply, protocol.NUM_EXAMPLES) for reply in replies])
    shares = torch.tensor(weights / weights.sum(), dtype=torch.float32)
    decoded = [to_tensors(reply.content.array_records[protocol.STATISTICS]) for reply in replies]

    def mean(values: list[Tensor]) -> Tensor:
        return torch.einsum("n,nc->c", shares, torch.stack(values))

    pooled: Weights = {}
    for name in like:
        pooled[name] = mean([tensors[name] for tensors in decoded])
        if name.endswith(VARIANCE):
            centre = name.removesuffix(VARIANCE) + MEAN
            middle = mean([tensors[centre] for tensors in decoded])
            spread = mean([(tensors[centre] - middle).square() for tensors in decoded])
            pooled[name] = pooled[name] + spread
    return pooled


def _matches(record: ArrayRecord, like: Weights) -> bool:
    if set(record) != set(like):
        return False
    arrays = {name: array.numpy() for name, array in record.items()}
    return all(
        arrays[name].shape == tuple(like[name].shape) and bool(np.isfinite(arrays[name]).all())
        for name in like
    )


def _metric(reply: Message, key: str) -> float:
    value = reply.content.metric_records[protocol.METRICS][key]
    if isinstance(value, list):
        raise TypeError(f"metric '{key}' is a list")
    return float(value)


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None
