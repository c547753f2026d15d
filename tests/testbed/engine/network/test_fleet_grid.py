"""FleetGrid: bytes, virtual time, refused devices, and taps."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.serde import message_to_proto
from grids import small_grid
from hypothesis import given, settings
from hypothesis import strategies as st
from small import make_spec

from testbed.engine.hosts.host import device_of, node_of
from testbed.engine.network.grid import GridOptions
from testbed.engine.network.ledger import Charge, Ledger
from testbed.engine.network.packet_loss import RETRY_AFTER_MS, PacketLoss
from testbed.engine.network.taps import Tap
from testbed.fleet.links import transfer_ms
from testbed.scenario.schema import MixEntry
from testbed.wire import protocol
from testbed.wire.records import to_record

pytestmark = pytest.mark.usefixtures("identity")
DEVICES = 6
STEPS = 2


def new_grid(
    deadline_ms=1e9,
    online=lambda *_: True,
    taps=(),
    shard_size=2,
    mix=None,
    cloud_ms=0.0,
    loss=0.0,
    noticed_ms=None,
):
    device_spec = make_spec()
    options = GridOptions(
        deadline_ms,
        shard_size,
        online,
        lambda images: cloud_ms * sum(images.values()),
        noticed_ms,
        packet_loss=PacketLoss(loss, seed=3),
    )
    return small_grid(device_spec, DEVICES, options, taps, mix), device_spec


def nodes(*devices):
    return [node_of(device) for device in devices]


def forward(device_spec, nodes, step=0, server_round=1):
    content = RecordDict(
        {
            protocol.CONFIG: ConfigRecord(
                {
                    protocol.SERVER_ROUND: server_round,
                    protocol.STEP: step,
                    protocol.STEPS: STEPS,
                    protocol.STEPS_BEFORE: 0,
                }
            )
        }
    )
    if step == 0:
        parameters, statistics = device_spec.build().initial_weights()
        content[protocol.ARRAYS] = to_record(parameters)
        content[protocol.STATISTICS] = to_record(statistics)
    return [Message(content, node, protocol.FORWARD, group_id=str(server_round)) for node in nodes]


def backward(replies, step=0, server_round=1):
    messages = []
    for reply in replies:
        z = reply.content[protocol.FEATURES][protocol.Z].numpy()
        content = RecordDict(
            {
                protocol.CONFIG: ConfigRecord(
                    {
                        protocol.SERVER_ROUND: server_round,
                        protocol.STEP: step,
                        protocol.STEPS: STEPS,
                        protocol.LEARNING_RATE_SCALE: 1.0,
                    }
                ),
                protocol.GRADIENTS: ArrayRecord({protocol.Z: Array(np.ones_like(z))}),
            }
        )
        node = reply.metadata.src_node_id
        messages.append(Message(content, node, protocol.BACKWARD, group_id=str(server_round)))
    return messages


def deploy_and_ask(grid, device_spec, requests):
    parameters, statistics = device_spec.build().initial_weights()
    content = RecordDict(
        {
            protocol.ARRAYS: to_record(parameters),
            protocol.STATISTICS: to_record(statistics),
            protocol.CONFIG: ConfigRecord({protocol.VERSION: "deployed"}),
        }
    )
    nodes = grid.get_node_ids()
    grid.send_and_receive([Message(content, node, protocol.DEPLOY) for node in nodes])
    asked = []
    for request, device in enumerate(requests):
        config = ConfigRecord(
            {protocol.REQUEST: request, protocol.IMAGE: 10 * device, protocol.ARRIVAL_S: 1.0}
        )
        content = RecordDict({protocol.CONFIG: config})
        asked.append(Message(content, node_of(device), protocol.INFER, group_id=str(request)))
    return grid.send_and_receive(asked)


def test_ledger_holds_the_serialised_size_of_every_message():
    grid, device_spec = new_grid()
    sent = forward(device_spec, nodes(0, 2, 3))
    replies = grid.send_and_receive(sent)
    up, down = (grid.ledger.amounts["train", f"{way}_bytes"] for way in ("uplink", "downlink"))
    for message, reply in zip(sent, replies, strict=True):
        device = device_of(message.metadata.dst_node_id)
        assert down[device] == message_to_proto(message).ByteSize()
        assert up[device] == message_to_proto(reply).ByteSize()
        z = reply.content[protocol.FEATURES][protocol.Z].numpy()
        assert up[device] > z.nbytes == 4 * 8 * 16 * 16 * 4
    assert up.sum() == sum(message_to_proto(reply).ByteSize() for reply in replies)
    assert set(np.flatnonzero(up)) == {0, 2, 3}


def test_the_trigger_of_a_request_is_not_on_the_wire():
    grid, device_spec = new_grid()
    deploy_and_ask(grid, device_spec, [])
    before = grid.ledger.total("serve", "downlink_bytes")
    replies = deploy_and_ask(grid, device_spec, [0, 2])[:2]
    deployed_again = before
    assert grid.ledger.total("serve", "downlink_bytes") == before + deployed_again
    assert all(reply.has_content() for reply in replies)


def busy_ms(grid):
    amounts = grid.ledger.amounts
    return amounts["train", "compute_ms"] + amounts["train", "transfer_ms"]


def test_time_is_download_compute_and_upload_of_the_slowest():
    grid, device_spec = new_grid(cloud_ms=2.0)
    replies = grid.send_and_receive(forward(device_spec, nodes(0, 1, 2)))
    spent = busy_ms(grid)
    assert grid.clock_ms == pytest.approx(spent.max())
    before = grid.clock_ms
    grid.send_and_receive(backward(replies))
    step = (busy_ms(grid) - spent).max()
    assert grid.clock_ms == pytest.approx(before + 2.0 * 12 + step)


def test_late_devices_are_stragglers_and_the_server_waits_until_the_deadline():
    mix = [
        MixEntry(device="raspberry-pi-4", links={"ethernet": 1.0}),
        MixEntry(device="raspberry-pi-4", links={"nb-iot": 1.0}),
    ]
    grid, device_spec = new_grid(deadline_ms=4000.0, mix=mix)
    replies = grid.send_and_receive(forward(device_spec, grid.get_node_ids()))
    slow = [grid.costs.fleet.link(device).name == "nb-iot" for device in range(DEVICES)]
    assert [reply.has_error() for reply in replies] == slow
    assert {reply.error.code for reply in replies if reply.has_error()} == {protocol.STRAGGLER}
    assert grid.ledger.counts["stragglers"].tolist() == [int(value) for value in slow]
    assert grid.clock_ms == 4000.0 / (2 * STEPS)
    on_time = [reply for reply in replies if reply.has_content()]
    # Having waited for the late ones must not make the others late.
    assert all(reply.has_content() for reply in grid.send_and_receive(backward(on_time)))
    assert (grid.ledger.amounts["train", "uplink_bytes"] > 0).all()


def test_offline_devices_cost_nothing_and_are_counted():
    grid, device_spec = new_grid(online=lambda device, at_s, draw: device != 2)
    replies = grid.send_and_receive(forward(device_spec, nodes(0, 2, 4)))
    assert [reply.has_error() for reply in replies] == [False, True, False]
    assert replies[1].error.code == protocol.OFFLINE
    assert grid.ledger.counts["offline"].tolist() == [0, 0, 1, 0, 0, 0]
    assert grid.ledger.amounts["train", "uplink_bytes"][2] == 0


@pytest.mark.parametrize(
    ("noticed_ms", "waited_ms"),
    [
        (None, 60_000.0),  # until the reply is due: the first quarter of two steps there and back
        (0.0, None),  # known at once
        (5000.0, 5000.0),
        (1e9, 60_000.0),
    ],
)
def test_the_server_waits_for_a_device_that_is_offline_as_long_as_it_cannot_know(
    noticed_ms, waited_ms
):
    def clock_ms(**options):
        grid, device_spec = new_grid(deadline_ms=240_000.0, **options)
        grid.send_and_receive(forward(device_spec, nodes(0, 2, 4)))
        return grid.clock_ms

    online_ms = clock_ms()
    assert online_ms < 2000.0
    offline_ms = clock_ms(online=lambda device, *_: device != 2, noticed_ms=noticed_ms)
    assert offline_ms == (online_ms if waited_ms is None else waited_ms)


def test_time_passes_when_no_device_can_be_reached():
    grid, device_spec = new_grid(deadline_ms=1000.0, online=lambda *_: False)
    replies = grid.send_and_receive(forward(device_spec, grid.get_node_ids()))
    assert all(reply.error.code == protocol.OFFLINE for reply in replies)
    assert grid.clock_ms == 1000.0 / (2 * STEPS)


def test_devices_that_cannot_hold_the_front_end_are_infeasible():
    mix = [
        MixEntry(device="raspberry-pi-4", links={"wifi": 1.0}),
        MixEntry(device="nucleo-g0b1re", links={"wifi": 1.0}),
    ]
    grid, _ = new_grid(mix=mix)
    replies = grid.send_and_receive(
        [Message(RecordDict(), node, protocol.ENROL) for node in grid.get_node_ids()]
    )
    small = [grid.costs.fleet.device(d).name == "nucleo-g0b1re" for d in range(DEVICES)]
    assert [reply.has_error() for reply in replies] == small
    assert {reply.error.code for reply in replies if reply.has_error()} == {protocol.INFEASIBLE}


def test_a_failing_device_fails_alone_and_is_named():
    grid, device_spec = new_grid(deadline_ms=240_000.0)
    bad = forward(device_spec, nodes(2))
    bad[0].content[protocol.CONFIG] = ConfigRecord({protocol.STEP: 0, protocol.STEPS: STEPS})
    replies = grid.send_and_receive([*forward(device_spec, nodes(0)), *bad])
    assert replies[0].has_content()
    assert replies[1].error.code == protocol.FAILED
    assert grid.ledger.counts["failed"].tolist() == [0, 0, 1, 0, 0, 0]
    assert "device 2" in grid.errors[0]
    # It replies with an error, which tells the server; its message and the error take their time.
    alone, _ = new_grid(deadline_ms=240_000.0)
    alone.send_and_receive(bad)
    assert 0.0 < alone.clock_ms == busy_ms(alone)[2] <= grid.clock_ms < 60_000.0


def test_an_eavesdropper_reads_its_share_of_links_only():
    links = Tap("few", frozenset({0, 2, 5}))
    cloud = Tap("all", frozenset(range(DEVICES)))
    grid, device_spec = new_grid(taps=[links, cloud])
    grid.send_and_receive(forward(device_spec, grid.get_node_ids()))
    assert links.intercepts == [] == cloud.intercepts  # training is not tapped here
    replies = deploy_and_ask(grid, device_spec, [0, 1, 2, 3, 4, 5, 0])
    assert [item.device for item in links.intercepts] == [0, 2, 5, 0]
    assert [item.request for item in cloud.intercepts] == list(range(7))
    for item in cloud.intercepts:
        sent = replies[item.request].content[protocol.FEATURES][protocol.Z].numpy()[0]
        assert np.array_equal(item.features, sent)


@pytest.mark.parametrize("shard_size", [1, 3, 6])
def test_shards_do_not_change_replies(shard_size):
    grid, device_spec = new_grid(shard_size=2)
    other, _ = new_grid(shard_size=shard_size)
    one = grid.send_and_receive(forward(device_spec, grid.get_node_ids()))
    two = other.send_and_receive(forward(device_spec, other.get_node_ids()))
    for a, b in zip(one, two, strict=True):
        assert a.metadata.src_node_id == b.metadata.src_node_id
        assert (
            a.content[protocol.FEATURES][protocol.Z].data
            == b.content[protocol.FEATURES][protocol.Z].data
        )


def spent(grid):
    return {
        amount: grid.ledger.amounts["train", amount].copy()
        for amount in ("uplink_bytes", "downlink_bytes", "transfer_ms", "energy_mj", "compute_ms")
    }


def test_every_transmission_of_a_lost_message_is_charged():
    grid, device_spec = new_grid(loss=0.4)
    sure, _ = new_grid()
    sent = forward(device_spec, grid.get_node_ids())
    replies = grid.send_and_receive(sent)
    sure.send_and_receive(forward(device_spec, sure.get_node_ids()))
    lossy, once = spent(grid), spent(sure)
    assert np.array_equal(lossy["compute_ms"], once["compute_ms"])
    attempts = {}
    for way in ("uplink", "downlink"):
        messages = replies if way == "uplink" else sent
        sizes = np.array([message_to_proto(message).ByteSize() for message in messages])
        attempts[way], rest = np.divmod(lossy[f"{way}_bytes"], sizes)
        assert not rest.any()
        assert np.array_equal(once[f"{way}_bytes"], sizes)
    both = attempts["uplink"] + attempts["downlink"]
    assert both.max() > 2  # twelve messages, each lost with probability 0.4
    assert (lossy["energy_mj"][both > 2] > once["energy_mj"][both > 2]).all()
    # RFC 6298: the timeout doubles with every repetition.
    fleet = grid.costs.fleet
    for device in range(DEVICES):
        waited_ms = 0.0
        for way, rate in (("uplink", fleet.uplink_mbit_s), ("downlink", fleet.downlink_mbit_s)):
            timeout_ms = RETRY_AFTER_MS + transfer_ms(
                once[f"{way}_bytes"][device], rate[device], fleet.rtt_ms[device]
            )
            waited_ms += timeout_ms * (2.0 ** (attempts[way][device] - 1) - 1)
        more_ms = lossy["transfer_ms"][device] - once["transfer_ms"][device]
        assert more_ms == pytest.approx(waited_ms, abs=1e-6)


def test_losses_depend_on_the_message_not_on_earlier_messages():
    grid, device_spec = new_grid(loss=0.4)
    other, _ = new_grid(loss=0.4, shard_size=5)
    grid.send_and_receive(forward(device_spec, grid.get_node_ids()))
    for node in reversed(other.get_node_ids()):
        other.send_and_receive(forward(device_spec, [node]))
    for amount, column in spent(grid).items():
        assert np.array_equal(column, spent(other)[amount]), amount
    before = spent(grid)
    grid.send_and_receive(forward(device_spec, grid.get_node_ids(), server_round=2))
    again = spent(grid)["uplink_bytes"] - before["uplink_bytes"]
    assert not np.array_equal(again, before["uplink_bytes"])  # another round has other losses


def test_losses_make_stragglers():
    grid, device_spec = new_grid(loss=0.4, deadline_ms=2.0 * RETRY_AFTER_MS)
    replies = grid.send_and_receive(forward(device_spec, grid.get_node_ids()))
    late = [reply.has_error() for reply in replies]
    assert any(late)
    assert grid.ledger.counts["stragglers"].tolist() == late


def test_pushed_messages_can_be_pulled_once():
    grid, device_spec = new_grid()
    ids = grid.push_messages(forward(device_spec, nodes(0, 1)))
    assert len(grid.pull_messages(ids)) == 2
    assert grid.pull_messages(ids) == []


amounts = st.floats(0, 1e6, allow_nan=False)
charges = st.builds(
    Charge,
    st.integers(0, 10**6),
    st.integers(0, 2**33),
    amounts,
    amounts,
    amounts,
    st.none() | amounts,
)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), charges)))
def test_ledger_totals_are_sums_and_unknown_energy_stays_unknown(items):
    ledger, plain = Ledger(4), {key: np.zeros(4) for key in Ledger(4).amounts}
    for device, charge in items:
        ledger.charge(device, "train", charge)
        ledger.count(device, "failed")
        for amount in ("uplink_bytes", "downlink_bytes", "compute_ms"):
            plain["train", amount][device] += getattr(charge, amount)
        plain["train", "transfer_ms"][device] += charge.uplink_ms + charge.downlink_ms
        plain["train", "energy_mj"][device] += (
            np.nan if charge.energy_mj is None else charge.energy_mj
        )
    for key, column in ledger.amounts.items():
        assert column.tobytes() == plain[key].tobytes()  # kept narrower, and equal to the bit
    assert ledger.counts["failed"].tolist() == [sum(d == n for d, _ in items) for n in range(4)]
    assert ledger.counted("failed") == len(items)
    assert ledger.total("train", "uplink_bytes") == sum(c.uplink_bytes for _, c in items)
    assert ledger.total("train", "compute_ms") == pytest.approx(sum(c.compute_ms for _, c in items))
    unknown = {device for device, charge in items if charge.energy_mj is None}
    assert set(np.flatnonzero(np.isnan(ledger.amounts["train", "energy_mj"]))) == unknown
    copy = Ledger(4)
    copy.load_state(ledger.state())
    for key, column in ledger.amounts.items():
        np.testing.assert_array_equal(column, copy.amounts[key])
    assert copy.counts["failed"].tolist() == ledger.counts["failed"].tolist()
