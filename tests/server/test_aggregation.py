"""Weighted means through Flower's strategies, against independent references in float64."""

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from server.aggregation import Tier
from server.strategies import averages
from testbed.core.registries import STRATEGIES
from testbed.engine.hosts.host import node_of
from testbed.wire import protocol

pytestmark = pytest.mark.usefixtures("identity")

WEIGHTS = [20, 7, 64, 13, 20]
SHARDS = {node_of(device): device // 2 for device in range(len(WEIGHTS))}
TAU, ETA, BETA_1, BETA_2 = 1e-3, 0.05, 0.9, 0.99
ADAPTIVE = {"eta": ETA, "tau": TAU}


def sent_in(server_round):
    """Return each device's parameters, and its first and second moments."""
    rng = np.random.default_rng(server_round)
    return [
        {
            "w": np.float32(rng.normal(size=(4, 3))),
            "first.w": np.float32(rng.normal(size=(4, 3))),
            "second.w": np.float32(rng.random(size=(4, 3))),
        }
        for _ in WEIGHTS
    ]


def replies_of(sent):
    replies = []
    for device, values in enumerate(sent):
        arrays = {name: Array(value) for name, value in values.items()}
        content = RecordDict(
            {
                protocol.ARRAYS: ArrayRecord({"w": arrays.pop("w")}),
                protocol.STATISTICS: ArrayRecord(),
                protocol.MOMENTS: ArrayRecord(arrays),
                protocol.METRICS: MetricRecord({protocol.NUM_EXAMPLES: WEIGHTS[device]}),
            }
        )
        message = Message(RecordDict(), node_of(device), protocol.BACKWARD)
        replies.append(Message(content, reply_to=message))
    return replies


def mean(sent, name):
    total = sum(w * v[name].astype(np.float64) for w, v in zip(WEIGHTS, sent, strict=True))
    return total / sum(WEIGHTS)


class Momentum:
    """FedAvgM (arXiv 1909.06335) with a server learning rate."""

    def __init__(self):
        self.velocity = None

    def __call__(self, before, average):
        gradient = before - average
        self.velocity = gradient if self.velocity is None else 0.5 * self.velocity + gradient
        return before - 0.7 * self.velocity


class Adaptive:
    """FedAdagrad, FedYogi and FedAdam (arXiv 2003.00295, algorithm 2)."""

    def __init__(self, second):
        self.second, self.first, self.steps = second, 0.0, 0
        self.squares = TAU**2

    def __call__(self, before, average):
        delta = average - before
        beta_1 = 0.0 if self.second == "adagrad" else BETA_1
        self.first = beta_1 * self.first + (1.0 - beta_1) * delta
        if self.second == "adagrad":
            self.squares = (self.squares if self.steps else 0.0) + delta**2
        elif self.second == "yogi":
            squares = self.squares if self.steps else 0.0
            self.squares = squares - (1 - BETA_2) * delta**2 * np.sign(squares - delta**2)
        else:
            self.squares = BETA_2 * (self.squares if self.steps else 0.0) + (1 - BETA_2) * delta**2
        self.steps += 1
        eta = ETA
        if self.second == "adam":  # Flower corrects the bias of FedAdam in its learning rate
            eta *= np.sqrt(1 - BETA_2 ** (self.steps + 1)) / (1 - BETA_1 ** (self.steps + 1))
        return before + eta * self.first / (np.sqrt(self.squares) + TAU)


class Grid:
    def get_node_ids(self):
        return list(SHARDS)


def by_mean(before, average):
    return average


AVERAGING = [
    ("fedavg", {}, by_mean),
    ("fedprox", {"proximal_mu": 0.1}, by_mean),
    ("fedavgm", {"server_momentum": 0.5, "server_learning_rate": 0.7}, Momentum()),
    ("fedadagrad", ADAPTIVE, Adaptive("adagrad")),
    ("fedyogi", ADAPTIVE | {"beta_1": BETA_1, "beta_2": BETA_2}, Adaptive("yogi")),
    ("fedadam", ADAPTIVE | {"beta_1": BETA_1, "beta_2": BETA_2}, Adaptive("adam")),
]


@pytest.mark.parametrize(("name", "options", "reference"), AVERAGING)
def test_strategies_of_the_mean_equal_the_reference(name, options, reference):
    strategy = STRATEGIES.create(name, options)
    zeros = torch.zeros(4, 3)
    tier = Tier(strategy, {"w": zeros}, {}, {"first.w": zeros, "second.w": zeros})
    before = np.zeros((4, 3))
    for server_round in (1, 2, 3):
        arrays = ArrayRecord({"w": Array(tier.parameters["w"].numpy())})
        strategy.configure_train(server_round, arrays, ConfigRecord(), Grid())
        sent = sent_in(server_round)
        replies = replies_of(sent)
        assert all(tier.is_sound(reply) for reply in replies)
        assert tier.aggregate(server_round, replies, 1, SHARDS)
        before = reference(before, mean(sent, "w"))
        np.testing.assert_allclose(tier.parameters["w"], before, rtol=2e-5, atol=2e-6)
        for moment in ("first.w", "second.w"):
            assert np.array_equal(tier.moments[moment], np.float32(mean(sent, moment)))


def test_which_strategies_need_the_mean_alone():
    averaging = {n for n in STRATEGIES.names() if averages(STRATEGIES.create(n, {}))}
    assert averaging == {name for name, _, _ in AVERAGING}


def test_a_strategy_of_ones_own_gets_the_arrays_of_every_device():
    seen = []

    class Own(FedAvg):
        def aggregate_train(self, server_round, replies):
            seen.extend(reply.content["arrays"]["w"].numpy() for reply in replies)
            return super().aggregate_train(server_round, replies)

    class Configured(FedAvg):
        def configure_train(self, server_round, arrays, config, grid):
            return super().configure_train(server_round, arrays, config, grid)

    assert averages(Configured())
    assert not averages(Own())
    sent = sent_in(1)
    tier = Tier(Own(), {"w": torch.zeros(4, 3)}, {}, {})
    assert tier.aggregate(1, replies_of(sent), 1, SHARDS)
    assert all(np.array_equal(a, b["w"]) for a, b in zip(seen, sent, strict=True))
    np.testing.assert_allclose(tier.parameters["w"], mean(sent, "w"), rtol=1e-5, atol=1e-6)
