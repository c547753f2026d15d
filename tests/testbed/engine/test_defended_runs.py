"""Every registered defence in a whole run: training, serving, attacks and charged bytes."""

import copy

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.serde import message_to_proto
from grids import random_images, small_grid
from small import TINY, make_spec
from whole_runs import results_of, run

from clients.deployed import FrontEndRunner
from testbed.core.registries import DEFENCES
from testbed.engine.hosts.host import node_of
from testbed.engine.network.grid import GridOptions
from testbed.engine.network.packet_loss import PacketLoss
from testbed.engine.network.taps import Tap
from testbed.wire import protocol
from testbed.wire.encoding import decode, payload_bytes
from testbed.wire.records import to_record, to_tensors

pytestmark = pytest.mark.usefixtures("identity")
NAMES = DEFENCES.names()
DEVICES = 3


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Run one short scenario with an arm for every defence, and one of defences combined."""
    tree = copy.deepcopy(TINY)
    tree["training"] |= {"rounds": 2, "local_steps": 2, "cohort_size": 3}
    front_end = {"name": "cnn", "cut": 2, "width": 8}
    combined = {"name": "cem", "base": {"name": "quantisation", "bits": 4, "base": "disco"}}
    tree["arms"] = [
        *({"name": name, "front_end": front_end, "defence": name} for name in NAMES),
        {"name": "combined", "front_end": front_end, "defence": combined},
    ]
    tree["adversaries"] = tree["adversaries"][1:]
    folder = tmp_path_factory.mktemp("defended") / "run"
    summary = results_of(run(tree, folder))
    return summary, pq.read_table(folder / "requests.parquet").to_pylist()


def arm_of(results, name):
    return next(arm for arm in results[0]["arms"] if arm["name"] == name)


@pytest.mark.parametrize("name", [*NAMES, "combined"])
def test_a_defended_run_passes_its_own_checks(results, name):
    arm = arm_of(results, name)
    failed = [
        check
        for check in results[0]["self_checks"]
        if check["name"].startswith(f"{name}:") and not check["passed"]
    ]
    assert failed == []
    assert arm["errors"] == []
    assert arm["training"]["participations"] > 0
    assert {entry["attack"] for entry in arm["attacks"]} >= {"ridge", "mean_image"}


@pytest.mark.parametrize("name", [*NAMES, "combined"])
def test_requests_carry_the_encoded_features_and_little_else(results, name):
    arm = arm_of(results, name)
    rows = [row for row in results[1] if row["arm"] == name and row["status"] == "answered"]
    mean = np.mean([row["uplink_bytes"] for row in rows])
    assert 0 < mean - arm["edge"]["feature_bytes"] < 900


def test_fewer_bits_and_fewer_features_are_fewer_bytes(results):
    size = {arm["name"]: arm["edge"]["feature_bytes"] for arm in results[0]["arms"]}
    assert size["none"] == 4 * 16 * 4 * 4
    assert size["quantisation"] == 16 * 4 * 4 + 3 + 4 * 4 + 5
    assert size["top_k"] < 0.15 * size["none"]
    assert size["combined"] < size["disco"] < size["none"]
    plain = {name for name, value in size.items() if value == size["none"]}
    assert plain == set(NAMES) - {"quantisation", "top_k", "disco"}


def test_layers_on_the_device_count_and_what_is_not_deployed_does_not(results):
    macs = {arm["name"]: arm["edge"]["macs"] for arm in results[0]["arms"]}
    parameters = {arm["name"]: arm["edge"]["parameters"] for arm in results[0]["arms"]}
    assert macs["mid"] == macs["none"] + 16 * 32 * 4 * 4
    assert parameters["mid"] == parameters["none"] + 16 * 32 + 32
    assert parameters["shredder"] == parameters["none"] + 2 * 16 * 4 * 4
    assert macs["disco"] == macs["none"] + 2 * 16 * 4
    assert parameters["adversarial_decoder"] == parameters["none"]
    training = {arm["name"]: arm["training"]["downlink_bytes"] for arm in results[0]["arms"]}
    assert training["adversarial_decoder"] > 1.2 * training["none"]


def test_noise_is_reported_as_a_ratio_to_the_signal(results):
    for name in ("gaussian_noise", "laplace_noise", "shredder", "mid", "vib"):
        assert -60.0 < arm_of(results, name)["release"]["snr_db"] < 60.0
    gaussian = arm_of(results, "gaussian_noise")["release"]
    assert gaussian["largest_snr_db"] == 0.0  # bound 1 against a scale of 1
    assert arm_of(results, "quantisation")["release"]["quantisation_snr_db"] > 30.0
    assert arm_of(results, "none")["release"] == {}


def defended_grid(name):
    """Return a grid of three devices that run a defence, its program, and a tap on all links."""
    device_spec = make_spec(defence=name, options={"cut": 2, "width": 8})
    tap = Tap("all", frozenset(range(DEVICES)))
    options = GridOptions(1e9, 2, lambda *_: True, lambda images: 0.0, PacketLoss(0.0, seed=3))
    return small_grid(device_spec, DEVICES, options, [tap]), device_spec, tap


@pytest.mark.parametrize("name", NAMES)
def test_the_ledger_charges_what_travels_and_the_tap_reads_what_is_released(name):
    grid, device_spec, tap = defended_grid(name)
    model = device_spec.build()
    parameters, statistics = model.initial_weights()
    weights = {protocol.ARRAYS: to_record(parameters), protocol.STATISTICS: to_record(statistics)}
    config = {
        protocol.SERVER_ROUND: 1,
        protocol.STEP: 0,
        protocol.STEPS: 1,
        protocol.STEPS_BEFORE: 0,
    }
    content = RecordDict({**weights, protocol.CONFIG: ConfigRecord(config)})
    sent = [Message(content, node_of(device), protocol.FORWARD, group_id="1") for device in (0, 2)]
    replies = grid.send_and_receive(sent)
    up = grid.ledger.amounts["train", "uplink_bytes"]
    for device, reply in zip((0, 2), replies, strict=True):
        assert up[device] == message_to_proto(reply).ByteSize()
        tensors = to_tensors(reply.content[protocol.FEATURES])
        del tensors[protocol.TARGETS]
        assert payload_bytes(tensors) < up[device] < payload_bytes(tensors) + 1500
        assert decode(tensors).shape == (4, *model.front_end.feature_shape)

    content = RecordDict({**weights, protocol.CONFIG: ConfigRecord({protocol.VERSION: "deployed"})})
    grid.send_and_receive([Message(content, node_of(1), protocol.DEPLOY)])
    asked = {protocol.REQUEST: 5, protocol.IMAGE: 12, protocol.ARRIVAL_S: 1.0}
    content = RecordDict({protocol.CONFIG: ConfigRecord(asked)})
    (reply,) = grid.send_and_receive([Message(content, node_of(1), protocol.INFER, group_id="5")])
    before = grid.ledger.amounts["serve", "uplink_bytes"][1]
    assert before >= message_to_proto(reply).ByteSize()
    assert grid.request_charges[5].features.uplink_bytes == message_to_proto(reply).ByteSize()
    released = decode(to_tensors(reply.content[protocol.FEATURES]))
    (item,) = tap.intercepts
    assert np.array_equal(item.features, released[0].numpy())
    # The device ran the deployed weights, with the defence's release and the request's own draw.
    runner = FrontEndRunner(device_spec.build(), {**parameters, **statistics})
    image = torch.from_numpy(random_images(DEVICES)[0][12:13])
    with torch.no_grad():
        assert torch.equal(runner.request_features(image, 1, 5), released)
