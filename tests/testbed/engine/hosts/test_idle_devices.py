"""Memory of a device that enrolled, got the front-end and was never chosen."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st
from scaling.idle import bytes_per_device

from testbed.data.device_rows import DeviceRows
from testbed.engine.hosts.host import device_of, node_of
from testbed.engine.hosts.on_ray.replay_log import ReplayLog
from testbed.wire import protocol

MOST_BYTES = 100


@pytest.mark.long
def test_an_idle_device_takes_under_100_bytes(tiny):
    """All bytes that are allocated, of numbers and of objects, as the fleet grows.

    Measured in a process of its own, where no cache of an earlier test grows meanwhile.
    """
    tiny["fleet"]["availability"] = {"name": "diurnal"}
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes:
        held = processes.submit(bytes_per_device, tiny, (100, 2100)).result()
    assert 50 < held["driver"] < MOST_BYTES


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2**33), max_size=4), min_size=1))
def test_device_rows_return_the_given_rows(given_rows):
    rows = DeviceRows([np.array(own, dtype=np.int64) for own in given_rows])
    assert [own.tolist() for own in rows] == given_rows
    assert {own.dtype for own in rows} == {np.dtype(np.int64)}
    assert rows.lengths.tolist() == [len(own) for own in given_rows]
    assert rows.flat().tolist() == [row for own in given_rows for row in own]
    with pytest.raises(IndexError):
        rows[len(given_rows)]


def test_a_replay_log_stores_contents_and_nodes_of_deployments(identity):
    contents = [RecordDict({"config": ConfigRecord({"tier": tier})}) for tier in (0, 1)]
    sent = [Message(contents[item % 2], node_of(item), protocol.DEPLOY) for item in (4, 5, 6, 8)]
    replay_log = ReplayLog()
    replay_log.note(sent)
    repeated = replay_log.shards()
    devices = [[device_of(message.metadata.dst_node_id) for message in shard] for shard in repeated]
    assert devices == [[4, 6, 8], [5]]
    kept = [{id(message.content) for message in shard} for shard in repeated]
    assert kept == [{id(content)} for content in contents]
    assert {m.metadata.message_type for shard in repeated for m in shard} == {protocol.DEPLOY}
