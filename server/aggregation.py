"""One tier of the fleet on the server: the front-end of its devices, and how it is aggregated."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.exception import AggregationError
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray
from torch import Tensor

from server.strategies import averages, fewest_replies
from testbed.core.errors import UserError
from testbed.core.layers import running_weight
from testbed.core.state_dicts import below, under
from testbed.wire import protocol
from testbed.wire.held import WEIGHTS, Description, describe, held
from testbed.wire.records import record_in, to_record, to_tensors
from testbed.wire.sums import Sums, add_up, combined

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
        records = {name: record_in(reply.content, name, ArrayRecord) for name in WEIGHTS}
        if records[protocol.MOMENTS] is None:
            records[protocol.MOMENTS] = ArrayRecord()
        expected = {
            protocol.ARRAYS: self.parameters,
            protocol.STATISTICS: self.statistics,
            protocol.MOMENTS: self.moments,
        }
        return (
            has_metrics(reply, protocol.NUM_EXAMPLES)
            and metric(reply, protocol.NUM_EXAMPLES) >= 1
            and all(
                (record := records[name]) is not None and _matches(describe(record, name), like)
                for name, like in expected.items()
            )
        )

    def aggregate(
        self,
        server_round: int,
        replies: Sequence[Message],
        steps: int,
        shard_of: Mapping[int, int],
        uniform: bool = False,
    ) -> bool:
        """Replace the front-end by the aggregate of the devices' front-ends after ``steps`` steps.

        Nothing changes where there are fewer replies than the strategy needs.

        Parameters
        ----------
        shard_of : the shard of every node, by which devices are added up.
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
        shards = [shard_of[reply.metadata.src_node_id] for reply in replies]
        try:
            if averages(self.strategy):
                merged, sums = self._averaged(server_round, replies, weights, shards)
            else:
                merged = self._selected(server_round, replies, weights)
                sums = summed(replies, weights, shards, [protocol.STATISTICS])
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
        pooled = pooled_statistics(sums)
        weight = running_weight(self.aggregated_rounds * steps, steps)
        self.aggregated_rounds += 1
        self.statistics = {
            name: torch.lerp(before, pooled[name], weight)
            for name, before in self.statistics.items()
        }
        return True

    def _averaged(
        self,
        server_round: int,
        replies: Sequence[Message],
        weights: Sequence[int],
        shards: Sequence[int],
    ) -> tuple[Weights | None, Sums]:
        """Return what the strategy makes of the mean, with the mean of the moments, and all sums.

        The strategy gets the mean as if one device had sent it. It takes its steps, if any, on the
        parameters alone.
        """
        sums = summed(replies, weights, shards, WEIGHTS)
        message = mean_message(replies[0], sums)
        arrays, _ = self.strategy.aggregate_train(server_round, [message])
        if arrays is None:
            return None, sums
        moments = _tensors(sums.mean(protocol.MOMENTS)) if self.moments else {}
        return to_tensors(arrays) | under(MOMENT, moments), sums

    def _selected(
        self, server_round: int, replies: Sequence[Message], weights: Sequence[int]
    ) -> Weights | None:
        """Return a strategy's own aggregate of the devices' arrays; None if it gives none.

        The moments get its selection of the parameters.
        """
        sent = [reply.content.array_records[protocol.ARRAYS] for reply in replies]
        if self.moments:
            moments = [reply.content.array_records[protocol.MOMENTS] for reply in replies]
            sent = [_joined(*records) for records in zip(sent, moments, strict=True)]
        messages = _for_strategy(replies, sent, weights)
        arrays, _ = self.strategy.aggregate_train(server_round, messages)
        return None if arrays is None else to_tensors(arrays)


def metric(reply: Message, key: str) -> float:
    """Return a number of a reply's metrics.

    Raises
    ------
    KeyError, TypeError : it is missing, or a list.
    """
    metrics = record_in(reply.content, protocol.METRICS, MetricRecord)
    if metrics is None:
        raise KeyError(protocol.METRICS)
    value = metrics[key]
    if isinstance(value, list):
        raise TypeError(f"metric '{key}' is a list")
    return float(value)


def has_metrics(reply: Message, *keys: str) -> bool:
    """Return whether a reply has these metrics, each a finite number."""
    metrics = record_in(reply.content, protocol.METRICS, MetricRecord)
    values = [metrics.get(key) if metrics is not None else None for key in keys]
    return all(isinstance(value, int | float) and math.isfinite(value) for value in values)


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


def mean_message(reply: Message, sums: Sums) -> Message:
    """Return the weighted mean of the devices' arrays as if ``reply``'s device had sent it."""
    mean = to_record(_tensors(sums.mean(protocol.ARRAYS)))
    (message,) = _for_strategy([reply], [mean], [sums.weight])
    return message


def summed(
    replies: Sequence[Message],
    weights: Sequence[int],
    shards: Sequence[int],
    records: Sequence[str],
) -> Sums:
    """Return weighted sums over the arrays of replies, added up by shards in the order of nodes.

    Arrays that are held elsewhere are added up there and are gone then; the others here, by the
    same function in the same order.

    Parameters
    ----------
    shards : number of each reply's shard.
    records : names of the records to add up.
    """
    members: dict[int, list[int]] = {}
    for place in sorted(range(len(replies)), key=lambda p: replies[p].metadata.src_node_id):
        members.setdefault(shards[place], []).append(place)
    parts = [members[shard] for shard in sorted(members)]
    of_parts = [[weights[place] for place in part] for part in parts]
    contents = [
        {
            name: record
            for name in records
            if (record := record_in(reply.content, name, ArrayRecord)) is not None
        }
        for reply in replies
    ]
    elsewhere = [held(content[records[0]]) for content in contents]
    holders = {id(arrays.holder) if arrays else None for arrays in elsewhere}
    first = elsewhere[0]
    if first is not None and first.holder is not None and len(holders) == 1:
        keys = [[arrays.key for p in part if (arrays := elsewhere[p])] for part in parts]
        made = first.holder.add_up(list(zip(keys, of_parts, strict=True)))
        if made is not None:
            return combined(made)
    return combined(
        [
            add_up([contents[place] for place in part], of_part)
            for part, of_part in zip(parts, of_parts, strict=True)
        ]
    )


def pooled_statistics(sums: Sums) -> Weights:
    """Return the devices' batch-norm statistics, pooled with the weights of their parameters.

    Means are averaged. The pooled variance is the mean variance within devices plus the variance
    between their means, without which it would be too small for heterogeneous devices.
    """
    pooled = _tensors(sums.mean(protocol.STATISTICS))
    for name, value in pooled.items():
        if name.endswith(VARIANCE):
            spread = sums.spread(name.removesuffix(VARIANCE) + MEAN)
            pooled[name] = value + torch.from_numpy(spread).float()
    return pooled


def _tensors(arrays: Mapping[str, NDArray[np.float32]]) -> Weights:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _matches(description: Description, like: Mapping[str, Tensor]) -> bool:
    """Return whether a record is sound and has the names and shapes of these tensors."""
    expected = {name: tuple(value.shape) for name, value in like.items()}
    return description.sound and dict(description.shapes) == expected
