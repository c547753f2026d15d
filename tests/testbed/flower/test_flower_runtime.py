"""Flower's own runtime: the same apps give the same weights as on FleetGrid."""

import tomllib
from pathlib import Path

import pytest
import torch
from flwr.app import Error, Message, MetricRecord, RecordDict
from flwr.cli.build import build_fab_from_disk
from flwr.common.config import validate_config
from flwr.server.superlink.fleet.vce.backend import raybackend
from flwr.simulation import run_simulation
from safetensors.torch import load_file

from testbed.core.errors import UserError
from testbed.core.progress import Progress
from testbed.engine.hosts.backend import InlineBackend
from testbed.engine.network.grid import fleet_grid
from testbed.engine.setting.run_context import RunContext
from testbed.engine.training.fleet import prepare, train
from testbed.flower.client import ScenarioClientApp
from testbed.flower.device_grid import find_devices
from testbed.flower.run_config import RunConfig, chosen_arm
from testbed.flower.server import new_server_app
from testbed.wire import protocol

ROOT = Path(__file__).resolve().parents[3]


class InThisProcess:
    """Replaces Flower's Ray backend: runs ClientApps in this process, one at a time."""

    num_workers = 1

    def __init__(self, config):
        pass

    def build(self, app_fn):
        self.app = app_fn()

    def process_message(self, message, context):
        return self.app(message, context), context

    def terminate(self):
        pass


def test_flower_simulates_the_same_weights_as_fleet_grid(
    tiny, write_scenario, tmp_path, monkeypatch
):
    """Equal bits: nodes are ordered by device, so that every sum has the same order."""
    monkeypatch.setattr(raybackend, "RayBackend", InThisProcess)
    tiny["fleet"]["mix"] = tiny["fleet"]["mix"][:1]  # whose devices all can train
    tiny["fleet"]["availability"] = {"name": "bernoulli", "probability": 1.0}
    tiny["fleet"]["assignments"] = [
        {"name": "lte", "devices": ["raspberry-pi-4"], "precision": "int8", "arms": ["sift"]}
    ]
    tiny["training"] |= {"rounds": 2, "round_deadline_s": 1e9, "strategy": "fedadam"}
    tiny["training"]["edge_optimiser"] = {"method": "adam", "learning_rate": 0.003}
    out = tmp_path / "flower"
    config = RunConfig(str(write_scenario(tiny)), "sift", nodes=8, wait_s=60.0, out=str(out))
    run_simulation(new_server_app(config), ScenarioClientApp(config), num_supernodes=8)
    weights = load_file(out / "weights.safetensors")
    assert len((out / "rounds.csv").read_text().splitlines()) == 1 + 2

    chosen = chosen_arm(config)
    models = chosen.new_models()
    backend = InlineBackend(chosen.inputs.host_data())
    backend.install([tier.device_spec for tier in models.tiers])
    run_context = RunContext(chosen.inputs, backend, tmp_path / "grid", Progress())
    arm = prepare(run_context, models, fleet_grid(run_context, models, []))
    before = {name: value.clone() for name, value in arm.cloud.state().items()}
    train(run_context, arm)
    ours = load_file(tmp_path / "grid" / "checkpoints" / "sift" / "round-000002.safetensors")
    shared = set(weights) & set(ours)
    assert {name.split(".")[0] for name in shared} == {"cloud", "tier"}
    assert shared == set(weights)
    for name in weights:
        assert torch.equal(weights[name], ours[name]), name
    assert any(not torch.equal(before[name], weights["cloud." + name]) for name in before)


class Nodes:
    """A Grid whose nodes return prepared replies."""

    def __init__(self, answers):
        self.answers = answers

    def get_node_ids(self):
        return list(self.answers)

    def send_and_receive(self, messages, *, timeout=None):
        replies = []
        for message in messages:
            answer = self.answers[message.metadata.dst_node_id]
            if answer is None:
                continue
            content = Error(0, answer) if isinstance(answer, str) else None
            if content is None:
                metrics = MetricRecord({protocol.DEVICE: answer})
                content = RecordDict({protocol.METRICS: metrics})
            replies.append(Message(content, reply_to=message))
            replies[-1].metadata.__dict__["_src_node_id"] = message.metadata.dst_node_id
        return replies


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({7: 0}, r"1 of 2 nodes connected within 0 s; start more SuperNodes"),
        ({7: 0, 9: 5}, r"node 9: partition-id 5 is not below fleet\.size 4"),
        ({7: 1, 9: 1}, r"nodes 7 and 9 both have partition-id 1"),
        ({7: 1, 9: "KeyError"}, r"node 9 does not say which device it is \(KeyError\)"),
        ({7: 1, 9: None}, r"1 of 2 nodes answered within 0 s"),
    ],
)
@pytest.mark.usefixtures("identity")
def test_nodes_that_are_no_device_are_refused(answers, message):
    with pytest.raises(UserError, match=message):
        find_devices(Nodes(answers), devices=4, wanted=2, wait_s=0.0)
    assert find_devices(Nodes({7: 3, 9: 0}), 4, 2, 0.0) == {3: 7, 0: 9}


def test_the_run_config_is_checked(tiny, write_scenario):
    path = str(write_scenario(tiny))
    with pytest.raises(UserError, match="run-config: nodes: give a int, got '3'"):
        RunConfig.of({"nodes": "3"})
    with pytest.raises(UserError, match=r"arm: no arm 'sfit' \(did you mean 'sift'\?\)"):
        chosen_arm(RunConfig(path, "sfit"))
    with pytest.raises(UserError, match=r"fleet\.sise: unknown key"):
        chosen_arm(RunConfig(path, overrides="seed=1; fleet.sise=3"))
    with pytest.raises(UserError, match=r"training\.protocol: a provider trains before"):
        chosen_arm(RunConfig(path, overrides="training.protocol=provider"))
    with pytest.raises(UserError, match=r"eaves\.victims: nothing reads messages on Flower's"):
        chosen_arm(RunConfig(path, overrides="adversaries.0.victims=both"))


def test_flower_accepts_the_app_of_this_project():
    tree = tomllib.loads((ROOT / "pyproject.toml").read_text())
    valid, errors, _ = validate_config(tree, check_module=True, project_dir=ROOT)
    assert valid, errors
    assert RunConfig.of(tree["tool"]["flwr"]["app"]["config"]).scenario == "scenarios/smoke.yaml"
    assert len(build_fab_from_disk(ROOT)) < 100_000
