"""One tier of the fleet on the server: the front-end of its devices, and how it is aggregated."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.exception import AggregationError
from flwr.serverapp.strategy import FedAvg, Strategy
from torch import Tensor

from server.strategies import fewest_replies, takes_server_steps
from testbed.core.errors import UserError
from testbed.core.layers import running_weight
from testbed.core.state_dicts import below, under
from testbed.wire import protocol
from testbed.wire.arrays import as_numpy
from testbed.wire.records import to_tensors

MEAN, VARIANCE = "running_mean", "running_var"
MOMENT = "moment."
Weights = dict[str, Tensor]


class Tier:
    """The front-end that the devices of one tier share.

    Parameters
    ----------
    strategy : aggregates the trainable parameters, of this tier alone. Batch-norm statistics are
        pooled instead, since adaptive strategies would drive variances below zero.
    parameters, statistics : first weights.
    moments : first moments of Adam on the devices, by kind and name of the weight.
    name : of the tier, for messages.

    Attributes
    ----------
    aggregated_rounds : rounds from which at least one front-end was accepted.
    moment_steps : steps on each device that are in the moments.
    """

    def __init__(
        self,
        strategy: Strategy,
        parameters: Weights,
        statistics: Weights,
        moments: Weights,
        name: str = "own",
    ) -> None:
        self.name = name
        self.strategy = strategy
        self.parameters = parameters
        self.statistics = statistics
        self.moments = moments
        self.aggregated_rounds = 0
        self.moment_steps = 0

    def is_sound(self, reply: Message) -> bool:
        """Return whether a device's new front-end has the right names and shapes and is finite.

        Its number of examples must be at least one, since strategies weigh by it.
        """
        arrays = reply.content.array_records.get(protocol.ARRAYS)
        statistics = reply.content.array_records.get(protocol.STATISTICS)
        moments = reply.content.array_records.get(protocol.MOMENTS, ArrayRecord())
        return (
            arrays is not None
            and statistics is not None
            and has_metrics(reply, protocol.NUM_EXAMPLES)
            and metric(reply, protocol.NUM_EXAMPLES) >= 1
            and _matches(arrays, self.parameters)
            and _matches(statistics, self.statistics)
            and _matches(moments, self.moments)
            and all(
                bool((as_numpy(moments[name]) >= 0.0).all())
                for name in self.moments
                if name.startswith(protocol.SECOND_MOMENT)
            )
        )

    def aggregate(
        self, server_round: int, replies: Sequence[Message], steps: int, uniform: bool = False
    ) -> bool:
        """Replace the front-end by the aggregate of the devices' front-ends after ``steps`` steps.

        Nothing changes where there are fewer replies than the strategy needs.

        Parameters
        ----------
        uniform : whether all devices weigh the same, not by the training images that they hold.

        Returns
        -------
        bool : whether the replies were used.

        Raises
        ------
        UserError : the strategy could not aggregate these replies.
        """
        if len(replies) < max(1, fewest_replies(self.strategy)):
            return False
        weights = [1 if uniform else int(metric(r, protocol.NUM_EXAMPLES)) for r in replies]
        try:
            merged = self._merged(server_round, replies, weights)
        except (AggregationError, ValueError) as error:
            name = type(self.strategy).__name__
            raise UserError(
                f"training.strategy: {name} could not aggregate {len(replies)} replies ({error})"
            ) from error
        if merged is None:
            return False
        moments = below(MOMENT, merged)
        self.parameters = {name: merged[name].float() for name in self.parameters}
        self.moments = {name: moments[name].float() for name in self.moments}
        self.moment_steps += steps
        pooled = pool_statistics(replies, weights, self.statistics)
        weight = running_weight(self.aggregated_rounds * steps, steps)
        self.aggregated_rounds += 1
        self.statistics = {
            name: torch.lerp(before, pooled[name], weight)
            for name, before in self.statistics.items()
        }
        return True

    def _merged(
        self, server_round: int, replies: Sequence[Message], weights: Sequence[int]
    ) -> Weights | None:
        """Return the aggregate of parameters and moments; None if the strategy gives none.

        The moments get the weights of the parameters, or the selection of a robust strategy. A
        strategy that takes steps of its own, such as FedAdam, does so on the parameters alone.
        """
        sent = [reply.content.array_records[protocol.ARRAYS] for reply in replies]
        apart: list[ArrayRecord] = []
        if self.moments:
            moments = [reply.content.array_records[protocol.MOMENTS] for reply in replies]
            if takes_server_steps(self.strategy):
                apart = [_joined(ArrayRecord(), record) for record in moments]
            else:
                sent = [_joined(*records) for records in zip(sent, moments, strict=True)]
        messages = _for_strategy(replies, sent, weights)
        arrays, _ = self.strategy.aggregate_train(server_round, messages)
        if arrays is None:
            return None
        merged = to_tensors(arrays)
        if apart:
            messages = _for_strategy(replies, apart, weights)
            mean, _ = FedAvg().aggregate_train(server_round, messages)
            assert mean is not None
            merged |= to_tensors(mean)
        return merged


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


def _for_strategy(
    replies: Sequence[Message], sent: Sequence[ArrayRecord], weights: Sequence[int]
) -> list[Message]:
    """Return messages with what a strategy reads: one record of arrays, one of metrics."""
    messages = []
    for reply, arrays, weight in zip(replies, sent, weights, strict=True):
        metrics = MetricRecord({protocol.NUM_EXAMPLES: weight})
        content = RecordDict({protocol.ARRAYS: arrays, protocol.METRICS: metrics})
        messages.append(Message(content, reply_to=reply))
    return messages


def _joined(parameters: ArrayRecord, moments: ArrayRecord) -> ArrayRecord:
    """Return one record of both; it shares their arrays."""
    joined = ArrayRecord()
    for name, array in [*parameters.items(), *under(MOMENT, dict(moments.items())).items()]:
        joined[name] = array
    return joined


def pool_statistics(replies: Sequence[Message], weights: Sequence[int], like: Weights) -> Weights:
    """Pool the devices' batch-norm statistics, weighted like their parameters.

    Means are averaged. The pooled variance is the mean variance within devices plus the variance
    between their means, without which it would be too small for heterogeneous devices.
    """
    shares = torch.tensor(np.array(weights) / sum(weights), dtype=torch.float32)
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
