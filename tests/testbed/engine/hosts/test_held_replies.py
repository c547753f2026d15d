"""What a host keeps of its devices' replies: the same sums and arrays as without it."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict

from testbed.core.errors import HostError
from testbed.engine.hosts import held_replies
from testbed.engine.hosts.held_replies import HeldReplies, ShardReplies
from testbed.engine.hosts.host import node_of
from testbed.wire.arrays import as_numpy, lent
from testbed.wire.held import describe, held
from testbed.wire.protocol import ARRAYS, METRICS, MOMENTS, NUM_EXAMPLES, STATISTICS
from testbed.wire.records import record_of
from testbed.wire.sums import add_up

EXCHANGE = 3


def records(device, width=3, dtype=np.float32):
    """Return what a device trained; the records' memory is that of tensors, as on a host."""
    rng = np.random.default_rng(device)
    shapes = {
        ARRAYS: {"weight": (width, 4), "scalar": ()},
        STATISTICS: {"running_mean": (width,), "running_var": (width,)},
        MOMENTS: {"first.weight": (width, 4), "second.weight": (width, 4)},
    }
    return {
        record: record_of(
            {name: lent(np.asarray(rng.random(shape), dtype)) for name, shape in of.items()}
        )
        for record, of in shapes.items()
    }


def shard_of(identity, trained, weights):
    """Let a host keep replies with these records."""
    replies = ShardReplies(len(trained))
    sent = []
    for device, (of, weight) in enumerate(zip(trained, weights, strict=True)):
        message = Message(RecordDict(), node_of(device), "train")
        message.metadata.__dict__["_message_id"] = str(device)
        metrics = MetricRecord({NUM_EXAMPLES: weight})
        reply = Message(RecordDict({**of, METRICS: metrics}), reply_to=message)
        replies.keep(message, reply)
        sent.append(reply)
    return replies, sent


def assert_equal(sums, expected):
    assert sums.weight == expected.weight
    for ours, theirs in ((sums.squares, expected.squares), *zip_totals(sums, expected)):
        assert list(ours) == list(theirs)
        assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


def zip_totals(sums, expected):
    assert list(sums.totals) == list(expected.totals)
    return [(sums.totals[record], expected.totals[record]) for record in expected.totals]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sums_and_arrays_are_those_of_the_replies(identity, dtype):
    trained, weights = [records(d, dtype=dtype) for d in range(5)], [3, 1, 4, 1, 5]
    replies, sent = shard_of(identity, trained, weights)
    keys = list(replies.kept)
    made = replies.made()
    if dtype == np.float64:  # not the fleet's own format: kept as they are
        assert made == []
    else:
        (((of, shares), sums),) = made
        assert (of, shares) == (keys, weights)
        assert_equal(sums, add_up(trained, weights))
    host = HeldReplies()
    host.keep(EXCHANGE, replies.kept)
    (part,) = host.add_up(EXCHANGE, [(keys[1:3], weights[1:3])])
    assert_equal(part, add_up(trained[1:3], weights[1:3]))
    taken = host.take(EXCHANGE)
    assert list(taken) == [keys[0], *keys[3:]]
    for key, device in ((keys[0], 0), (keys[3], 3), (keys[4], 4)):
        assert list(taken[key]) == list(trained[device])
        for record, arrays in trained[device].items():
            assert list(taken[key][record]) == list(arrays)
            for name, array in arrays.items():
                assert as_numpy(taken[key][record][name]).tobytes() == as_numpy(array).tobytes()
                assert taken[key][record][name].shape == array.shape
    for reply, of in zip(sent, trained, strict=True):
        for name, record in of.items():
            stands = held(reply.content[name])
            assert stands.key in keys
            assert stands.description == describe(record, name)


def test_rows_do_not_share_the_memory_of_the_tensors(identity):
    trained = [records(0), records(1)]
    replies, _ = shard_of(identity, trained, [1, 1])
    for record in trained[0].values():
        for array in record.values():
            array.__dict__["values"][...] = 7.0
    _, sums = replies.made()[0]
    assert_equal(sums, add_up([records(0), records(1)], [1, 1]))


def test_unsound_and_weightless_replies_are_in_no_sum_beforehand(identity):
    trained = [records(device) for device in range(6)]
    as_numpy(trained[1][ARRAYS]["weight"]).base[0, 0] = np.nan
    as_numpy(trained[2][MOMENTS]["second.weight"]).base[0, 0] = -1.0
    trained[4][STATISTICS] = ArrayRecord({"running_mean": Array("float32", (3,), "numpy", b"-")})
    replies, sent = shard_of(identity, trained, [2, 2, 2, 0, 2, 2])
    ((keys, weights), sums) = replies.made()[0]
    first, *_, last = replies.kept
    assert keys == [first, last]
    assert weights == [2, 2]
    assert_equal(sums, add_up([trained[0], trained[5]], weights))
    sound = [
        all(held(reply.content[name]).description.sound for name in trained[0]) for reply in sent
    ]
    assert sound == [True, False, False, True, False, True]


def test_layouts_are_added_up_apart_or_together_by_names(identity):
    trained = [records(0), records(1, width=5), records(2), records(3, width=5)]
    replies, _ = shard_of(identity, trained, [1, 2, 3, 4])
    keys = list(replies.kept)
    assert [shard for shard, _ in replies.made()] == [
        ([keys[0], keys[2]], [1, 3]),
        ([keys[1], keys[3]], [2, 4]),
    ]
    other = {name: record_of(dict(reversed(of.items()))) for name, of in records(4).items()}
    replies, _ = shard_of(identity, [records(0), other], [1, 2])
    host = HeldReplies()
    host.keep(EXCHANGE, replies.kept)
    (sums,) = host.add_up(EXCHANGE, [(list(replies.kept), [1, 2])])
    assert_equal(sums, add_up([records(0), records(4)], [1, 2]))


def test_many_weights_are_added_up_only_when_asked(identity, monkeypatch):
    monkeypatch.setattr(held_replies, "LARGEST_ROW", 10)
    replies, _ = shard_of(identity, [records(0)], [1])
    assert replies.made() == []


def test_arrays_of_another_exchange_are_gone(identity):
    replies, _ = shard_of(identity, [records(0)], [1])
    host = HeldReplies()
    host.keep(EXCHANGE, replies.kept)
    host.keep_only([EXCHANGE + 1])
    with pytest.raises(HostError, match="gone"):
        host.add_up(EXCHANGE, [(list(replies.kept), [1])])
    assert host.take(EXCHANGE) == {}
