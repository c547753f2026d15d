"""Split-federated training against centralised training, and its treatment of bad replies."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Error, Message, RecordDict
from small import make_spec
from torch.nn import functional

from clients.edge import build_client_app
from clients.local_training import LocalTraining
from server.aggregation import Tier
from server.cloud import Cloud
from server.entry_layers import TieredCloudModel
from server.split_federated import SplitFederated
from server.strategies import fewest_replies
from testbed.core.errors import UserError
from testbed.core.layers import channels_last
from testbed.core.registries import CLOUD_MODELS, STRATEGIES
from testbed.engine.hosts.host import node_of
from testbed.scenario.training import CloudOptimiserSection, EdgeOptimiserSection, TrainingSection
from testbed.wire import protocol

pytestmark = pytest.mark.usefixtures("identity")


class DirectGrid:
    """Carries messages to one ClientApp in this process; ``spoil`` may change a reply."""

    def __init__(self, app, devices, spoil=lambda message, reply: reply):
        from flwr.app import Context

        self.app = app
        self.devices = devices
        self.spoil = spoil
        self.log = []
        self.contexts = {
            node_of(d): Context(1, node_of(d), {"partition-id": d}, RecordDict(), {})
            for d in range(devices)
        }

    def get_node_ids(self):
        return sorted(self.contexts)

    def send_and_receive(self, messages, *, timeout=None):
        replies = []
        for message in messages:
            self.log.append((message.metadata.message_type, message.metadata.dst_node_id))
            reply = self.app(message, self.contexts[message.metadata.dst_node_id])
            replies.append(self.spoil(message, reply))
        return replies


def new_server(device_spec, training, strategy="fedavg", options=None, devices=4):
    model = device_spec.build()
    name, cloud_options = model.front_end.cloud_model
    torch.manual_seed(0)
    cloud_model = CLOUD_MODELS.create(
        name, cloud_options, feature_shape=model.front_end.feature_shape, num_classes=10
    )
    for layer in cloud_model.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    cloud_model = TieredCloudModel(cloud_model, [model.front_end.feature_shape], 10)
    cloud = Cloud(cloud_model, CloudOptimiserSection(), device_spec.seed, threads=1)
    flower = STRATEGIES.create(strategy, options or {})
    tier = Tier(flower, *model.initial_weights(), model.initial_moments())
    return SplitFederated(training, device_spec.seed, cloud, [tier]), model


PLAIN = EdgeOptimiserSection(learning_rate=0.1, momentum=0.0, clip_norm=None)


def test_one_device_equals_centralised_training(host_data):
    device_spec = make_spec(optimiser=PLAIN)
    training = TrainingSection(rounds=1, cohort_size=1, local_steps=3, batch_size=4)
    server, model = new_server(device_spec, training)
    app = build_client_app([device_spec], host_data, keep_in_memory=True)

    reference, _ = new_server(device_spec, training)
    front_end = model.front_end
    optimiser = torch.optim.SGD(front_end.parameters(), lr=0.1)
    cloud = reference.cloud
    batches = LocalTraining(model, 0, 1, *host_data.training(0), *model.initial_weights())
    front_end.train()
    for step in range(3):
        x, labels = batches._batch(step)
        for half in (front_end, cloud.model):
            for layer in half.modules():
                if isinstance(layer, torch.nn.BatchNorm2d):
                    layer.momentum = 1 / (step + 1)
        cloud.model.train()
        logits = cloud.model(front_end(channels_last((x - 0.3) / 0.4)))
        loss = functional.cross_entropy(logits, labels)
        optimiser.zero_grad()
        cloud.optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        cloud.optimiser.step()

    server.train(DirectGrid(app, 1), lambda record: None)
    for name, value in front_end.named_parameters():
        torch.testing.assert_close(
            server.tiers[0].parameters[name], value.detach(), rtol=1e-4, atol=1e-5
        )
    for name, value in cloud.model.state_dict().items():
        torch.testing.assert_close(
            server.cloud.model.state_dict()[name], value, rtol=1e-3, atol=1e-4
        )


class OneDataSet:
    """The same images on every device."""

    def __init__(self, host_data):
        self.host_data = host_data

    def training(self, device):
        return self.host_data.training(0)


@pytest.mark.parametrize("devices", [1, 3])
def test_adam_over_many_rounds_is_adam_at_one_place(host_data, devices, monkeypatch):
    """One step a round, equal data: the central optimiser is ``torch.optim.Adam``."""
    rounds = 30
    optimiser = EdgeOptimiserSection(method="adam", learning_rate=0.003, clip_norm=None)
    device_spec = make_spec(optimiser=optimiser)
    training = TrainingSection(
        rounds=rounds,
        cohort_size=devices,
        local_steps=1,
        batch_size=4,
        learning_rate_schedule="constant",
    )
    # Every device draws the batches of device 0.
    batch = LocalTraining._batch
    monkeypatch.setattr(
        LocalTraining,
        "_batch",
        lambda self, step: batch(SimpleNamespace(**vars(self) | {"_device": 0}), step),
    )
    server, model = new_server(device_spec, training)
    app = build_client_app([device_spec], OneDataSet(host_data), keep_in_memory=True)
    records = []
    server.train(DirectGrid(app, devices), records.append)

    central, _ = new_server(device_spec, training)
    parameters, statistics = model.initial_weights()
    leaves = {name: value.requires_grad_() for name, value in parameters.items()}
    adam = torch.optim.Adam(leaves.values(), lr=0.003)
    largest = []
    for number in range(1, rounds + 1):
        local = LocalTraining(model, 0, number, *host_data.training(0), leaves, statistics)
        local.parameters = leaves
        z, targets = local.forward(0)
        result = central.cloud.step([z] * devices, [targets] * devices, number, 0)
        before = {name: value.detach().clone() for name, value in leaves.items()}
        adam.zero_grad()
        local._graph.batch.released.backward(result.gradients[0])
        adam.step()
        moved = torch.cat([(leaves[n].detach() - before[n]).abs().flatten() for n in leaves])
        largest.append(float((moved > 0.99 * 0.003).float().mean()))
    assert server.tiers[0].moment_steps == rounds
    for name, value in leaves.items():
        if name != "blocks.0.0.bias":  # batch norm cancels it: its gradient is rounding
            torch.testing.assert_close(
                server.tiers[0].parameters[name], value.detach(), rtol=0, atol=1e-6
            )
    assert largest[0] > 0.9  # the first step of Adam is +-lr
    assert max(largest[10:]) < 0.2


def train(host_data, strategy="fedavg", options=None, spoil=None, rounds=2, **extra):
    device_spec = make_spec(**extra)
    training = TrainingSection(rounds=rounds, cohort_size=4, local_steps=2, batch_size=4)
    server, _ = new_server(device_spec, training, strategy, options)
    app = build_client_app([device_spec], host_data, keep_in_memory=True)
    grid = DirectGrid(app, 4, spoil) if spoil else DirectGrid(app, 4)
    records = []
    server.train(grid, records.append)
    return server, records, grid


STRATEGIES_AGGREGATING = [
    ("fedavg", {}),
    ("fedadam", {"eta": 0.01, "tau": 0.001}),
    ("fedmedian", {}),
    ("fedavgm", {"server_momentum": 0.5}),
    ("fedprox", {"proximal_mu": 0.1}),
    ("fedtrimmedavg", {"beta": 0.25}),
    ("fedyogi", {"eta": 0.01, "tau": 0.001}),
    ("fedadagrad", {"eta": 0.01, "tau": 0.001}),
    ("krum", {}),
    ("multikrum", {"num_nodes_to_select": 3}),
    ("bulyan", {}),
]


def test_every_strategy_is_tested():
    # q-FedAvg is not offered: it needs the loss of every device before it trains.
    assert {name for name, _ in STRATEGIES_AGGREGATING} == set(STRATEGIES.names())


@pytest.mark.parametrize(("strategy", "options"), STRATEGIES_AGGREGATING)
def test_strategies_aggregate(host_data, strategy, options):
    server, records, _ = train(host_data, strategy, options)
    start = make_spec().build().initial_weights()[0]
    assert [record.participants for record in records] == [4, 4]
    assert all(torch.isfinite(value).all() for value in server.tiers[0].parameters.values())
    assert any(not torch.equal(server.tiers[0].parameters[name], start[name]) for name in start)
    assert all(
        (server.tiers[0].statistics[n] >= 0).all() for n in server.tiers[0].statistics if "var" in n
    )


def reply_of_few(count):
    """Let only the first devices send a front-end back."""

    def spoil(message, reply):
        if message.metadata.dst_node_id >= node_of(count) and protocol.ARRAYS in reply.content:
            return Message(Error(protocol.FAILED, "late"), reply_to=message)
        return reply

    return spoil


@pytest.mark.parametrize(
    ("strategy", "options", "needed"),
    [
        ("bulyan", {}, 3),
        ("krum", {}, 1),
        ("multikrum", {"num_malicious_nodes": 1, "num_nodes_to_select": 2}, 5),
        ("fedtrimmedavg", {"beta": 0.34}, 3),
        ("fedmedian", {}, 1),
    ],
)
@pytest.mark.parametrize("replies", [1, 2, 3, 4])
def test_a_round_with_too_few_replies_has_no_participants_and_changes_nothing(
    host_data, strategy, options, needed, replies
):
    server, records, _ = train(host_data, strategy, options, reply_of_few(replies), rounds=1)
    parameters, statistics = make_spec().build().initial_weights()
    used = replies >= needed
    assert [record.participants for record in records] == [replies if used else 0]
    assert [record.unused for record in records] == [0 if used else replies]
    assert [record.rejected for record in records] == [0]
    tier = server.tiers[0]
    same = [torch.equal(tier.parameters[name], parameters[name]) for name in parameters]
    same += [torch.equal(tier.statistics[name], statistics[name]) for name in statistics]
    assert not any(same) if used else all(same)
    assert tier.aggregated_rounds == int(used)


@pytest.mark.parametrize(
    ("strategy", "options", "needed"),
    [
        ("bulyan", {"num_malicious_nodes": 0}, 3),
        ("bulyan", {"num_malicious_nodes": 2}, 11),
        ("krum", {"num_malicious_nodes": 0}, 1),
        ("krum", {"num_malicious_nodes": 2}, 7),
        ("multikrum", {"num_malicious_nodes": 1, "num_nodes_to_select": 2}, 5),
        ("multikrum", {"num_malicious_nodes": 1, "num_nodes_to_select": 8}, 9),
        ("fedtrimmedavg", {"beta": 0.0}, 1),
        ("fedtrimmedavg", {"beta": 0.2}, 5),
        ("fedtrimmedavg", {"beta": 0.3}, 4),
        ("fedmedian", {}, 1),
        ("fedadam", {}, 1),
    ],
)
def test_replies_that_a_strategy_needs(strategy, options, needed):
    assert fewest_replies(STRATEGIES.create(strategy, options)) == needed


def test_strategies_differ(host_data):
    mean, _, _ = train(host_data, "fedavg", rounds=1)
    median, _, _ = train(host_data, "fedmedian", rounds=1)
    assert any(
        not torch.allclose(mean.tiers[0].parameters[name], median.tiers[0].parameters[name])
        for name in mean.tiers[0].parameters
    )


@pytest.mark.parametrize("strategy", STRATEGIES_AGGREGATING)
@pytest.mark.parametrize("defence", ["none", "adversarial_decoder"])
def test_moments_are_aggregated_with_the_parameters(host_data, strategy, defence):
    sent = []

    def keep(message, reply):
        if reply.has_content() and protocol.MOMENTS in reply.content:
            sent.append({k: v.numpy() for k, v in reply.content[protocol.MOMENTS].items()})
        return reply

    name, options = strategy
    adam = EdgeOptimiserSection(method="adam", learning_rate=0.003)
    server, records, _ = train(
        host_data, name, options, keep, rounds=2, optimiser=adam, defence=defence
    )
    tier, start = server.tiers[0], make_spec(defence=defence, optimiser=adam).build()
    assert [record.participants for record in records] == [4, 4]
    assert tier.moment_steps == 4
    assert set(tier.moments) == set(start.initial_moments())
    assert len(tier.moments) == 2 * len(start.initial_weights()[0])
    last = sent[-4:]
    for moment, value in tier.moments.items():
        stacked = np.stack([device[moment] for device in last])
        if name in ("krum", "multikrum", "fedmedian", "fedtrimmedavg"):
            assert (value.numpy() >= stacked.min(0)).all()
            assert (value.numpy() <= stacked.max(0)).all()
        else:
            np.testing.assert_allclose(value.numpy(), stacked.mean(0), rtol=1e-5, atol=1e-9)
    if name == "krum":  # parameters and moments of one device
        assert any(all(np.array_equal(d[m], tier.moments[m].numpy()) for m in d) for d in last)


def weights_of_unequal_devices(host_data, **training):
    """Train devices that hold 10, 4, 2 and 10 images; return the aggregate and what they sent."""
    held = [10, 4, 2, 10]

    class Unequal:
        def training(self, device):
            images, labels = host_data.training(device)
            return images[: held[device]], labels[: held[device]]

    sent = []

    def keep(message, reply):
        if protocol.ARRAYS in reply.content:
            sent.append({k: v.numpy() for k, v in reply.content[protocol.ARRAYS].items()})
        return reply

    device_spec = make_spec(batch_size=3, optimiser=PLAIN)
    section = TrainingSection(rounds=1, cohort_size=4, local_steps=5, batch_size=3, **training)
    server, _ = new_server(device_spec, section)
    app = build_client_app([device_spec], Unequal(), keep_in_memory=True)
    server.train(DirectGrid(app, 4, keep), lambda record: None)
    return server.tiers[0].parameters, sent, np.array(held, dtype=np.float64)


@pytest.mark.parametrize("device_weights", ["images", "uniform"])
def test_fedavg_weighs_devices_by_the_images_they_hold(host_data, device_weights):
    """Not by their last batch, which has three images, or two on a device that holds two."""
    result, sent, held = weights_of_unequal_devices(host_data, device_weights=device_weights)
    shares = held / held.sum() if device_weights == "images" else np.full(4, 0.25)
    for name, value in result.items():
        expected = sum(share * device[name] for share, device in zip(shares, sent, strict=True))
        np.testing.assert_allclose(value.numpy(), expected, rtol=1e-5, atol=1e-7)


def test_fedavg_is_the_mean_of_the_devices(host_data):
    sent = []

    def keep(message, reply):
        if reply.has_content() and protocol.ARRAYS in reply.content:
            sent.append({k: v.numpy() for k, v in reply.content[protocol.ARRAYS].items()})
        return reply

    server, _, _ = train(host_data, spoil=keep, rounds=1)
    for name, value in server.tiers[0].parameters.items():
        expected = np.mean([weights[name] for weights in sent], axis=0)
        np.testing.assert_allclose(value.numpy(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("shards", [[0, 0, 0], [0, 0, 1], [0, 1, 1], [0, 1, 2]])
def test_pooled_statistics_are_those_of_the_union(shards):
    from server.aggregation import pooled_statistics, summed

    rng = np.random.default_rng(0)
    parts = [
        rng.normal(loc, scale, (count, 3))
        for loc, scale, count in [(0, 1, 40), (3, 2, 10), (-1, 0.5, 50)]
    ]
    replies, weights = [], [len(part) for part in parts]
    for part in parts:
        content = RecordDict(
            {
                protocol.STATISTICS: ArrayRecord(
                    {
                        "bn.running_mean": Array(part.mean(0).astype(np.float32)),
                        "bn.running_var": Array(part.var(0).astype(np.float32)),
                    }
                ),
            }
        )
        replies.append(Message(content, 1, protocol.BACKWARD))
    sums = summed(replies, weights, shards, [protocol.STATISTICS])
    pooled = pooled_statistics(sums)
    union = np.concatenate(parts)
    np.testing.assert_allclose(pooled["bn.running_mean"], union.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(pooled["bn.running_var"], union.var(0), rtol=1e-4)


def spoil_device(device, key, change):
    def spoil(message, reply):
        if message.metadata.dst_node_id == node_of(device) and key in reply.content:
            record = reply.content[key]
            name = list(record)[-1 if key == protocol.MOMENTS else 0]  # a second moment
            reply.content[key] = ArrayRecord(
                {**dict(record.items()), name: Array(change(record[name].numpy()))}
            )
        return reply

    return spoil


@pytest.mark.parametrize(
    ("key", "change"),
    [
        (protocol.ARRAYS, lambda a: a * np.float32("nan")),
        (protocol.ARRAYS, lambda a: a.reshape(-1)),
        (protocol.STATISTICS, lambda a: a * np.float32("inf")),
        (protocol.FEATURES, lambda a: a * np.float32("nan")),
        (protocol.MOMENTS, lambda a: a * np.float32("nan")),
        (protocol.MOMENTS, lambda a: a[None]),
        (protocol.MOMENTS, lambda a: -np.abs(a) - 1),
    ],
)
def test_broken_updates_are_rejected_and_counted(host_data, key, change):
    adam = EdgeOptimiserSection(method="adam", learning_rate=0.003)
    server, records, _ = train(host_data, spoil=spoil_device(2, key, change), optimiser=adam)
    assert [record.participants for record in records] == [3, 3]
    assert [record.rejected for record in records] == [1, 1]
    assert all(torch.isfinite(value).all() for value in server.tiers[0].parameters.values())


def test_a_silent_device_is_excluded_for_the_round(host_data):
    def drop(message, reply):
        late = message.metadata.message_type == protocol.BACKWARD
        if late and message.metadata.dst_node_id == node_of(0):
            return Message(Error(protocol.STRAGGLER, "late"), reply_to=message)
        return reply

    _, records, grid = train(host_data, spoil=drop)
    assert [record.participants for record in records] == [3, 3]
    # Per round: one forward and the backward that it missed, then silence.
    assert grid.log.count((protocol.FORWARD, node_of(0))) == 2
    assert grid.log.count((protocol.BACKWARD, node_of(0))) == 2


def test_no_device_that_can_train_is_a_clear_error(host_data):
    def refuse(message, reply):
        return Message(Error(protocol.INFEASIBLE, "too small"), reply_to=message)

    with pytest.raises(UserError, match="no device can train"):
        train(host_data, spoil=refuse)


def test_cohorts_are_drawn_by_seed_and_round(host_data):
    device_spec = make_spec()
    training = TrainingSection(rounds=1, cohort_size=3, local_steps=1, batch_size=4)
    server, _ = new_server(device_spec, training)
    server.eligible = list(range(1, 21))
    cohorts = [server._cohort(number) for number in range(1, 6)]
    again, _ = new_server(device_spec, training)
    again.eligible = list(range(1, 21))
    assert cohorts == [again._cohort(number) for number in range(1, 6)]
    assert len({tuple(cohort) for cohort in cohorts}) > 1
    assert all(len(set(cohort)) == 3 for cohort in cohorts)
