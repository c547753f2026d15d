"""One tier of the fleet on the server: the front-end of its devices, and how it is aggregated."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.exception import AggregationError
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from testbed.core.errors import UserError
from testbed.core.layers import running_weight
from testbed.wire import protocol
from testbed.wire.arrays import as_numpy
from testbed.wire.records import to_tensors

MEAN, VARIANCE = "running_mean", "running_var"
Weights = dict[str, Tensor]


class Tier:
    """The front-end that the devices of one tier share.

    Parameters
    ----------
    strategy : aggregates the trainable parameters, of this tier alone. Batch-norm statistics are
        pooled instead, since adaptive strategies would drive variances below zero.
    parameters, statistics : first weights.
    name : of the tier, for messages.

    Attributes
    ----------
    aggregated_rounds : rounds from which at least one front-end was accepted.
    """

    def __init__(
        self, strategy: Strategy, parameters: Weights, statistics: Weights, name: str = "own"
    ) -> None:
        self.name = name
        self.strategy = strategy
        self.parameters = parameters
        self.statistics = statistics
        self.aggregated_rounds = 0

    def is_sound(self, reply: Message) -> bool:
        """Return whether a device's new front-end has the right names and shapes and is finite.

        Its number of examples must be positive, since strategies weigh by it.
        """
        arrays = reply.content.array_records.get(protocol.ARRAYS)
        statistics = reply.content.array_records.get(protocol.STATISTICS)
        return (
            arrays is not None
            and statistics is not None
            and has_metrics(reply, protocol.NUM_EXAMPLES)
            and metric(reply, protocol.NUM_EXAMPLES) > 0
            and _matches(arrays, self.parameters)
            and _matches(statistics, self.statistics)
        )

    def aggregate(self, server_round: int, replies: Sequence[Message], steps: int) -> None:
        """Replace the front-end by the aggregate of the devices' front-ends after ``steps`` steps.

        Raises
        ------
        UserError : the strategy could not aggregate these replies.
        """
        if not replies:
            return
        try:
            arrays, _ = self.strategy.aggregate_train(
                server_round, [_for_strategy(reply) for reply in replies]
            )
        except (AggregationError, ValueError) as error:
            name = type(self.strategy).__name__
            raise UserError(
                f"training.strategy: {name} could not aggregate {len(replies)} replies ({error})"
            ) from error
        if arrays is not None:
            merged = to_tensors(arrays)
            self.parameters = {name: merged[name].float() for name in self.parameters}
        pooled = pool_statistics(replies, self.statistics)
        weight = running_weight(self.aggregated_rounds * steps, steps)
        self.aggregated_rounds += 1
        self.statistics = {
            name: torch.lerp(before, pooled[name], weight)
            for name, before in self.statistics.items()
        }


def metric(reply: Message, key: str) -> float:
    """Return a number of a reply's metrics.

    Raises
    ------
    TypeError : it is a list.
    """
    value = reply.content.metric_records[protocol.METRICS][key]
    if isinstance(value, list):
        raise TypeError(f"metric '{key}' is a list")
    return float(value)


def has_metrics(reply: Message, *keys: str) -> bool:
    """Return whether a reply has these metrics, each a finite number."""
    metrics = reply.content.metric_records.get(protocol.METRICS)
    values = [metrics.get(key) if metrics is not None else None for key in keys]
    return all(isinstance(value, int | float) and np.isfinite(value) for value in values)


def _for_strategy(reply: Message) -> Message:
    metrics = MetricRecord({protocol.NUM_EXAMPLES: int(metric(reply, protocol.NUM_EXAMPLES))})
    content = RecordDict(
        {protocol.ARRAYS: reply.content[protocol.ARRAYS], protocol.METRICS: metrics}
    )
    return Message(content, reply_to=reply)


def pool_statistics(replies: Sequence[Message], like: Weights) -> Weights:
    """Pool the devices' batch-norm statistics, weighted by their number of examples.

    Means are averaged. The pooled variance is the mean variance within devices plus the variance
    between their means, without which it would be too small for heterogeneous devices.
    """
    weights = np.array([metric(reply, protocol.NUM_EXAMPLES) for reply in replies])
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


def _matches(record: ArrayRecord, like: Mapping[str, Tensor]) -> bool:
    if set(record) != set(like):
        return False
    arrays = {name: as_numpy(array) for name, array in record.items()}
    return all(
        arrays[name].shape == tuple(like[name].shape) and bool(np.isfinite(arrays[name]).all())
        for name in like
    )
