"""Enrolment and deployment of a whole fleet at once, against a message per device."""

from dataclasses import replace

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from grids import random_images
from small import make_spec

from server.broadcast import ask_all
from testbed.engine.hosts.backend import InlineBackend
from testbed.engine.hosts.host import HostData, node_of
from testbed.engine.network import grid as grid_module
from testbed.engine.network.costs import DeviceCosts, TierCosts
from testbed.engine.network.grid import FleetGrid, GridOptions
from testbed.engine.network.ledger import LARGEST, Charges, Ledger
from testbed.engine.network.packet_loss import PacketLoss
from testbed.engine.setting.tiers import NodeTiers
from testbed.fleet.catalogue import load_catalogue
from testbed.fleet.layer_stats import layer_stats
from testbed.fleet.link_effects import RadioTimers
from testbed.fleet.links import load_links
from testbed.fleet.sampling import sample_fleet
from testbed.scenario.schema import FleetSection
from testbed.wire import protocol
from testbed.wire.records import to_record

pytestmark = pytest.mark.usefixtures("identity")
DEVICES = 40
MIX = [
    {"device": "raspberry-pi-4", "weight": 4, "links": {"wifi": 1, "lte": 1}},
    {"device": "pixel-4", "weight": 3, "links": {"lte": 1, "5g-low-band": 1}},  # unpublished
    {"device": "nucleo-h7a3zi", "weight": 3, "links": {"ble": 1, "lte-m": 1}},  # cannot train
    {"device": "raspberry-pi-5", "weight": 2, "links": {"broadband": 1}},
]
SPECS = [
    make_spec(tier=name, options={"cut": 1, "width": width})
    for name, width in (("own", 16), ("s", 8))
]


def new_grid(loss=0.0, sleep=False, online=True):
    """Return a Grid of two tiers, whose devices hold from 0 to 6 images."""
    section = FleetSection.model_validate({"size": DEVICES, "mix": MIX})
    fleet = sample_fleet(section, 0, load_catalogue(), load_links())
    tiers = []
    for number, device_spec in enumerate(SPECS):
        stats = layer_stats(device_spec.build().on_device(), device_spec.image_shape)
        costs = TierCosts.of(fleet, stats, "cnn", 4, seed=0)
        serves = np.array([model.name != "pixel-4" or number == 1 for model in fleet.models])
        trains = np.array([model.name != "nucleo-h7a3zi" for model in fleet.models])
        tiers.append(replace(costs, serves=serves, trains=trains))
    tier_of = (np.arange(DEVICES) % 2).astype(np.uint8)
    images, labels = random_images(DEVICES)
    rows = [np.arange(device % 7) for device in range(DEVICES)]
    backend = InlineBackend(HostData(images, labels, rows))
    backend.install(SPECS)
    options = GridOptions(
        *(1e9, 3, lambda *_: online, lambda images: 0.0),
        radio=RadioTimers(fleet, 0) if sleep else None,
        packet_loss=PacketLoss(loss, seed=3),
    )
    return FleetGrid(backend, DeviceCosts(fleet, tiers, tier_of), Ledger(DEVICES), [], options)


def contents():
    """Return the front-ends of both tiers, as they are deployed."""
    made = []
    for number, device_spec in enumerate(SPECS):
        parameters, statistics = device_spec.build().initial_weights()
        config = ConfigRecord({protocol.VERSION: "deployed", protocol.TIER: number})
        arrays, buffers = to_record(parameters), to_record(statistics)
        made.append(
            RecordDict(
                {
                    protocol.ARRAYS: arrays,
                    protocol.STATISTICS: buffers,
                    protocol.CONFIG: config,
                }
            )
        )
    return made


def by_node(answers):
    """Return what each node answered: an error's code, or the metrics of its reply."""
    found = {}
    for answer in answers:
        reply = answer.reply
        metrics = reply.content.metric_records if reply.has_content() else {}
        said = {name: dict(record) for name, record in metrics.items()}
        for node in answer.nodes.tolist():
            assert node not in found
            found[node] = reply.error.code if reply.has_error() else said
    return found


def asked(grid):
    """Let every device serve a request with what is deployed on it; return the features."""
    messages = []
    for device in range(DEVICES):
        config = ConfigRecord(
            {protocol.REQUEST: device, protocol.IMAGE: 3, protocol.ARRIVAL_S: 1.0}
        )
        content = RecordDict({protocol.CONFIG: config})
        messages.append(Message(content, node_of(device), protocol.INFER, group_id=str(device)))
    replies = grid.send_and_receive(messages)
    return [
        reply.error.code
        if reply.has_error()
        else [array.numpy().tobytes() for array in reply.content[protocol.FEATURES].values()]
        for reply in replies
    ]


def enrol_and_deploy(grid):
    """Return every answer, the ledger and what devices serve with, in comparable form."""
    tier_of = NodeTiers(grid.costs.tier_of)
    found = [by_node(ask_all(grid, protocol.ENROL, [RecordDict()], tier_of))]
    found += [by_node(ask_all(grid, protocol.DEPLOY, contents(), tier_of)) for _ in range(2)]
    served = asked(grid)
    tensors, plain = grid.state()
    return found, {name: t.numpy().tobytes() for name, t in tensors.items()}, plain, served


@pytest.mark.parametrize("sleep", [False, True])
@pytest.mark.parametrize("loss", [0.0, 0.3])
def test_a_broadcast_is_a_message_to_each_to_the_bit(loss, sleep, monkeypatch):
    """Tiers, radios that sleep, lost packets, unpublished powers, devices without memory."""
    monkeypatch.setattr(grid_module, "CHARGED_AT_ONCE", 4)
    together = enrol_and_deploy(new_grid(loss, sleep))
    monkeypatch.setattr(FleetGrid, "broadcast", lambda *_: None)
    each = enrol_and_deploy(new_grid(loss, sleep))
    assert together == each
    enrolled, deployed, _ = together[0]
    assert len(enrolled) == len(deployed) == DEVICES
    infeasible = [list(found.values()).count(protocol.INFEASIBLE) for found in (enrolled, deployed)]
    assert 0 < infeasible[0] < DEVICES > infeasible[1] > 0
    images = {
        answer[protocol.METRICS][protocol.NUM_EXAMPLES]
        for answer in enrolled.values()
        if answer != protocol.INFEASIBLE
    }
    assert images == set(range(7))
    energy = np.frombuffer(together[1]["serve.energy_mj"])
    assert np.isnan(energy).any()
    assert (energy > 0.0).any()


def test_one_device_of_each_kind_runs(monkeypatch):
    """Of each content, state and number of images; whether a device is online does not matter."""
    grid, runs = new_grid(online=False), []
    host = grid._dispatcher._backend._host
    answer = host._answer
    monkeypatch.setattr(
        host,
        "_answer",
        lambda app, message, sizes: runs.append(message) or answer(app, message, sizes),
    )
    tier_of = NodeTiers(grid.costs.tier_of)
    assert len(by_node(ask_all(grid, protocol.ENROL, [RecordDict()], tier_of))) == DEVICES
    assert len(runs) == 7
    del runs[:]
    assert len(by_node(ask_all(grid, protocol.DEPLOY, contents(), tier_of))) == DEVICES
    assert len(runs) == 14


@pytest.mark.parametrize("why", ["another app", "a device fails", "a reply is too large"])
def test_where_devices_may_differ_each_gets_a_message(why, monkeypatch):
    def broken(data, device):
        raise ValueError("no images today")

    grid = new_grid()
    host = grid._dispatcher._backend._host
    app = host._app
    if why == "another app":
        host.install_app(lambda data: lambda message, context: app(message, context))
    elif why == "a device fails":
        monkeypatch.setattr(HostData, "training", broken)
    else:
        grid._options = replace(grid._options, largest_reply_bytes=10)
    assert grid.broadcast(protocol.ENROL, [RecordDict()]) is None
    assert not any(column.any() for column in grid.ledger.amounts.values())
    answers = by_node(ask_all(grid, protocol.ENROL, [RecordDict()], NodeTiers(grid.costs.tier_of)))
    failed = list(answers.values()).count(protocol.FAILED)
    assert len(answers) == DEVICES
    assert (failed > 0) == (why != "another app")
    assert grid.ledger.counted("failed") == failed


def test_charges_in_columns_widen_a_column_of_bytes():
    """Beyond 4 GiB a column takes 8 bytes per device."""
    ledger, devices = Ledger(3), np.array([0, 2])
    many = np.array([LARGEST - 1, 5])
    nothing = np.zeros(2)
    for _ in range(2):
        charges = Charges(many, np.zeros(2, np.int64), nothing, nothing, np.array([np.nan, 1.0]))
        ledger.charge_all(devices, "train", charges)
    assert ledger.amounts["train", "uplink_bytes"].tolist() == [2 * (LARGEST - 1), 0, 10]
    energy = ledger.amounts["train", "energy_mj"]
    assert np.isnan(energy[0])
    assert energy[1:].tolist() == [0.0, 2.0]
