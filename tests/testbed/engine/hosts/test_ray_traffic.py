"""Traffic to Ray's hosts: images once per run, weights once per round, for any shards."""

import copy
import gc
from types import SimpleNamespace

import numpy as np
import pytest
import ray
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from grids import random_images
from ray import cloudpickle
from small import make_spec

from clients.local_training import LocalTraining
from server.serving import Serving
from testbed.core.errors import HostError
from testbed.core.progress import Progress
from testbed.data.device_rows import DeviceRows
from testbed.engine.hosts import held_replies
from testbed.engine.hosts.broadcast import NOT_ADDRESSED, Broadcast
from testbed.engine.hosts.host import HostData, node_of
from testbed.engine.hosts.on_ray import backend as ray_backend
from testbed.engine.hosts.on_ray import cluster as ray_cluster
from testbed.engine.hosts.on_ray import hosts as ray_hosts
from testbed.engine.hosts.on_ray import shared_payloads
from testbed.engine.hosts.on_ray.actors import _HostActor
from testbed.engine.hosts.on_ray.cluster import Cluster
from testbed.engine.hosts.on_ray.exchange import Exchange
from testbed.engine.hosts.on_ray.shared_payloads import unpacked
from testbed.engine.network.clock import is_last_step
from testbed.engine.network.grid import FleetGrid, fleet_grid
from testbed.engine.setting.models import arm_models
from testbed.engine.setting.run_context import RunContext, read_run_inputs, start_backend
from testbed.engine.setting.tiers import NodeTiers
from testbed.engine.training.fleet import prepare, train
from testbed.scenario.loading import validate_scenario
from testbed.wire import protocol
from testbed.wire.held import held
from testbed.wire.records import to_record

ROUNDS = 2
DEVICES = 8


class Stored:
    """A reference to something in the object store."""

    def __init__(self, value):
        self.value = value


class Calls:
    """A method of an actor, which runs in this process on copies of its arguments."""

    def __init__(self, method, sent):
        self.method = method
        self.sent = sent

    def remote(self, *given):
        packed = [None if isinstance(item, Stored) else cloudpickle.dumps(item) for item in given]
        self.sent.append((self.method.__name__, packed))
        arguments = [
            item.value if content is None else cloudpickle.loads(content)
            for item, content in zip(given, packed, strict=True)
        ]
        return Stored(self.method(*arguments))


class InProcessRay(Cluster):
    """Replaces Ray: hosts run in this process; everything stored and sent is recorded."""

    def __init__(self):
        self.stored = []
        self.sent = []
        self.actors = 0
        self.hosts = []

    def put(self, value):
        self.stored.append(value)
        return Stored(value)

    def options(self, **_):
        return self

    def remote(self):
        self.actors += 1
        self.hosts.append(_HostActor())
        return Actor(self.hosts[-1], self.sent)

    def wait(self, references, what, count=None, within_s=0.0):
        return references

    def close(self):
        pass

    def forwarded(self):
        """Return the packed payloads with which a step begins."""
        payloads = [packed[0] for name, packed in self.sent if name == "carry"]
        return [
            payload
            for payload in payloads
            if unpacked(cloudpickle.loads(payload)).messages[0].metadata.message_type
            == protocol.FORWARD
        ]


class Actor:
    def __init__(self, host, sent):
        self.host = host
        self.sent = sent

    def __getattr__(self, name):
        return Calls(getattr(self.host, name), self.sent)


@pytest.fixture
def on_ray(monkeypatch):
    """Replace Ray by it."""
    fake = InProcessRay()
    monkeypatch.setattr(ray, "put", fake.put)
    no_gpu = SimpleNamespace(get_assigned_resources=dict)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: no_gpu)
    monkeypatch.setattr(ray, "get", lambda reference, timeout: reference.value)
    monkeypatch.setattr(ray_hosts, "HostActor", fake)
    monkeypatch.setattr(ray_backend, "_cluster", lambda hosts, address: (fake, hosts))
    return fake


def train_and_deploy(tree, folder, **engine):
    """Train one arm, deploy it, and return the front-end's weights."""
    tree["fleet"]["mix"] = tree["fleet"]["mix"][:1]  # whose devices all can train
    tree["fleet"]["availability"] = {"name": "bernoulli", "probability": 1.0}
    tree["training"] |= {"rounds": ROUNDS, "local_steps": 2}
    tree["arms"] = [{"name": "plain", "front_end": {"name": "cnn", "cut": 2, "width": 32}}]
    tree["engine"] |= engine
    scenario = validate_scenario(tree, "test")
    inputs = read_run_inputs(scenario)
    models = arm_models(inputs, scenario.arms[0])
    with start_backend(inputs, scenario.engine.hosts) as backend:
        backend.install([tier.device_spec for tier in models.tiers])
        run_context = RunContext(inputs, backend, folder, Progress())
        arm = prepare(run_context, models, fleet_grid(run_context, models, []))
        train(run_context, arm)
        (tier,) = arm.server.tiers
        serving = Serving(
            arm.cloud, [(tier.parameters, tier.statistics)], NodeTiers(models.tier_of)
        )
        assert len(serving.deploy(arm.grid)) == len(inputs.fleet)
    return tier.parameters


def weights_in(contents):
    """Return those contents that hold a front-end."""
    return [
        content for content in contents if isinstance(content, RecordDict) and content.array_records
    ]


@pytest.mark.parametrize(("shard_size", "hosts"), [(1, 3), (2, 1), (1, 1)])
def test_images_are_stored_once_a_run_and_large_weights_once_a_round(
    tiny, tmp_path, on_ray, monkeypatch, shard_size, hosts
):
    monkeypatch.setattr(shared_payloads, "STORED_FROM_BYTES", 1)
    engine = {"backend": "ray", "hosts": hosts, "shard_size": shard_size}
    trained = train_and_deploy(tiny, tmp_path, **engine)
    assert on_ray.actors == hosts
    kinds = [type(value) for value in on_ray.stored]
    assert kinds[:3] == [np.ndarray, np.ndarray, DeviceRows]
    assert set(kinds[3:]) == {RecordDict, np.ndarray}
    assert kinds[3:].count(np.ndarray) == 2  # who enrols, and on whom is deployed
    fronts = weights_in(on_ray.stored)
    assert len(fronts) == ROUNDS + 1  # and once more for all devices, when it is deployed
    size = sum(value.nbytes for value in trained.values())
    cohort, steps = tiny["training"]["cohort_size"], tiny["training"]["local_steps"]
    payloads = on_ray.forwarded()
    assert len(payloads) == ROUNDS * steps * cohort // shard_size
    assert all(len(payload) < size / 4 for payload in payloads)


@pytest.mark.parametrize("shards", [1, 2])
def test_shards_take_small_weights_along(tiny, tmp_path, on_ray, monkeypatch, shards):
    if shards == 1:
        monkeypatch.setattr(shared_payloads, "STORED_FROM_BYTES", 1)
    size = tiny["training"]["cohort_size"] // shards
    trained = train_and_deploy(tiny, tmp_path, backend="ray", hosts=2, shard_size=size)
    assert len(weights_in(on_ray.stored)) == 1  # what is deployed on all devices
    size = sum(value.nbytes for value in trained.values())
    payloads = on_ray.forwarded()
    with_weights = [True] * shards + [False] * shards  # in the first of two steps
    assert [len(payload) > size for payload in payloads] == with_weights * ROUNDS


def test_a_new_process_gets_what_was_deployed_on_all_devices(identity, on_ray, monkeypatch):
    """After one call per host, which names no device."""
    monkeypatch.setattr(ray, "kill", lambda actor: None)
    images, labels = random_images(DEVICES)
    device_spec = make_spec()
    parameters, statistics = device_spec.build().initial_weights()
    version = ConfigRecord({protocol.VERSION: "deployed", protocol.TIER: 0})
    content = RecordDict(
        {
            protocol.ARRAYS: to_record(parameters),
            protocol.STATISTICS: to_record(statistics),
            protocol.CONFIG: version,
        }
    )

    def features(backend):
        shards = []
        for device in range(DEVICES - 1):
            config = {protocol.REQUEST: 0, protocol.IMAGE: device, protocol.ARRIVAL_S: 0.0}
            asked = RecordDict({protocol.CONFIG: ConfigRecord(config)})
            message = Message(asked, node_of(device), protocol.INFER, group_id="0")
            shards.append((device // 2 % 2, [message]))
        replies = [delivery.reply for (delivery,) in backend.handle(shards)]
        return [reply.content[protocol.FEATURES][protocol.Z].data for reply in replies]

    with ray_backend.RayBackend(2, HostData(images, labels, [np.arange(3)] * DEVICES)) as backend:
        backend.install([device_spec])
        content_of = np.array([0] * (DEVICES - 1) + [NOT_ADDRESSED], dtype=np.int16)
        told = backend.broadcast(Broadcast(protocol.DEPLOY, [content], content_of, 2))
        assert [item.devices.tolist() for item in told] == [[0, 1, 4, 5], [2, 3, 6]]
        calls = [name for name, _ in on_ray.sent]
        assert calls == [name for name in ("load", "install_app", "tell") for _ in range(2)]
        before = features(backend)
        for host in (0, 1):
            backend._alive._replace(host, "a test")
        assert backend.restarts == 2
        assert features(backend) == before


def test_garbage_collection_skips_earlier_objects_until_the_backend_ends(on_ray):
    data = HostData(np.zeros((1, 1, 8, 8), np.uint8), np.zeros(1, np.int64), [np.arange(1)])
    with ray_backend.RayBackend(1, data):
        assert gc.get_freeze_count() > 0
    assert gc.get_freeze_count() == 0


def test_a_head_that_is_gone_is_noticed_however_quickly_hosts_answer(monkeypatch):
    monkeypatch.setattr(ray, "wait", lambda references, num_returns, timeout: (references, []))
    now, looks = [100.0], []
    monkeypatch.setattr(ray_cluster.time, "monotonic", lambda: now[0])

    class Watched(Cluster):
        def _look(self):
            looks.append(now[0])
            if now[0] > 110.0:
                raise HostError("gone")

    cluster = Watched()

    def train():
        for _ in range(100):
            cluster.wait(["a reference"], "a host")
            now[0] += 0.5

    with pytest.raises(HostError, match="gone"):
        train()
    assert looks == [100.0, 102.5, 105.0, 107.5, 110.0, 112.5]


def calls(on_ray, *names):
    """Return the names of the calls among these."""
    return [name for name, _ in on_ray.sent if name in names]


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam", "fedmedian", "krum"])
@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
@pytest.mark.parametrize("beforehand", [True, False])
def test_hosts_in_this_process_train_the_same_weights_as_inline(
    tiny, tmp_path, on_ray, monkeypatch, strategy, optimiser, beforehand
):
    """Arrays are added up where they are, small ones at once; a strategy that reads them does."""
    if not beforehand:
        monkeypatch.setattr(held_replies, "LARGEST_ROW", 0)
    tiny["training"]["strategy"] = strategy
    tiny["training"]["edge_optimiser"] = {"method": optimiser, "learning_rate": 0.003}
    inline = train_and_deploy(copy.deepcopy(tiny), tmp_path / "inline")
    assert on_ray.stored == []
    for hosts in (1, 3):
        on_ray.sent.clear()
        tree = copy.deepcopy(tiny)
        trained = train_and_deploy(tree, tmp_path / str(hosts), backend="ray", hosts=hosts)
        assert on_ray.stored
        assert all(torch.equal(inline[name], trained[name]) for name in inline)
        robust = strategy in ("fedmedian", "krum")
        expected = {"take"} if robust else set() if beforehand else {"add_up"}
        assert set(calls(on_ray, "add_up", "take")) == expected
    assert len(on_ray.hosts) == 1 + 3
    if robust or not beforehand:  # otherwise they are kept until the next exchange
        assert not any(any(host._held._of.values()) for host in on_ray.hosts)


def late_and_unsound(monkeypatch, late, unsound):
    """Let the last reply of one device come too late, and spoil the weights of another."""
    backward, account = LocalTraining.backward, FleetGrid._account

    def spoilt(self, step, *rest):
        penalty = backward(self, step, *rest)
        if self._device == unsound:
            next(iter(self.parameters.values())).detach().fill_(float("nan"))
        return penalty

    def delayed(self, message, delivery):
        reply, finish_ms = account(self, message, delivery)
        last = message.metadata.message_type == protocol.BACKWARD and is_last_step(message)
        if last and message.metadata.dst_node_id == node_of(late):
            return Message(Error(protocol.STRAGGLER, "late"), reply_to=message), finish_ms
        return reply, finish_ms

    monkeypatch.setattr(LocalTraining, "backward", spoilt)
    monkeypatch.setattr(FleetGrid, "_account", delayed)


def test_late_and_unsound_replies_are_in_no_sum(tiny, tmp_path, on_ray, monkeypatch):
    tiny["training"]["cohort_size"] = 8
    tiny["fleet"]["size"] = 8
    late_and_unsound(monkeypatch, late=2, unsound=5)
    summed = []
    add_up = Exchange.add_up

    def added_up(self, shards):
        summed.extend(len(keys) for keys, _ in shards)
        return add_up(self, shards)

    monkeypatch.setattr(Exchange, "add_up", added_up)
    inline = train_and_deploy(copy.deepcopy(tiny), tmp_path / "inline")
    assert summed == []
    hosts = train_and_deploy(copy.deepcopy(tiny), tmp_path / "ray", backend="ray", hosts=2)
    assert all(torch.equal(inline[name], hosts[name]) for name in inline)
    assert all(torch.isfinite(value).all() for value in hosts.values())
    assert sum(summed) == ROUNDS * 6
    assert calls(on_ray, "add_up") == ["add_up"] * ROUNDS  # of the shard with the late reply


def test_hosts_keep_arrays_as_long_as_their_replies_live(on_ray):
    app = ClientApp()

    @app.train()
    def train(message, context):
        weights = ArrayRecord({"w": Array(np.full(5, context.node_id - node_of(0), np.float32))})
        return Message(RecordDict({"arrays": weights}), reply_to=message)

    rows = [np.arange(1)] * 4
    data = HostData(np.zeros((1, 1, 8, 8), np.uint8), np.zeros(1, np.int64), rows)
    with ray_backend.RayBackend(2, data) as backend:
        backend.install_app(lambda data: app)

        def exchange():
            sent = [Message(RecordDict(), node_of(device), "train") for device in range(4)]
            (first, second) = backend.handle([(0, sent[:2]), (1, sent[2:])])
            return [delivery.reply.content["arrays"] for delivery in first + second]

        first, second = exchange(), exchange()
        assert [len(host._held._of) for host in on_ray.hosts] == [2, 2]
        del first
        third = exchange()
        assert [sorted(host._held._of) for host in on_ray.hosts] == [[2, 3], [2, 3]]
        assert [record["w"].numpy()[0] for record in second] == [0, 1, 2, 3]
        assert [record["w"].numpy()[0] for record in third] == [0, 1, 2, 3]
        assert [host._held._of for host in on_ray.hosts] == [{}, {}]
        summed = exchange()
        arrays = [held(record) for record in summed]
        shards = [([of.key for of in part], [1, 1]) for part in (arrays[:2], arrays[2:])]
        sums = arrays[0].holder.add_up(shards)
        assert [part.totals["arrays"]["w"][0] for part in sums] == [1.0, 5.0]
        last = exchange()  # while the replies that were added up still live
        assert [sorted(host._held._of) for host in on_ray.hosts] == [[5], [5]]
        assert len(summed) == len(last)
