"""The engine's promise: hosts, backends and interruptions change no bit of the results."""

import contextlib
import copy
import json
import time

import psutil
import pyarrow.parquet as pq
import pytest
import ray
import yaml
from clusters import cluster_of_one_node
from small import TINY
from whole_runs import StopAt, everything, results_of, run

from testbed.core.progress import Display, Progress
from testbed.core.project import PROJECT_ROOT
from testbed.engine.experiment import run_experiment
from testbed.engine.hosts.on_ray import stopped
from testbed.engine.hosts.on_ray.cluster import Cluster as RayCluster
from testbed.engine.hosts.on_ray.exchange import Exchange
from testbed.engine.hosts.on_ray.hosts import RayHosts
from testbed.scenario.loading import validate_scenario
from testbed.wire import protocol


def with_engine(tree, **engine):
    tree["engine"] = {**tree["engine"], **engine}
    return tree


@pytest.fixture(scope="module")
def inline_run(tmp_path_factory):
    """Return the folder of an inline run of the tiny scenario."""
    return run(TINY, tmp_path_factory.mktemp("inline") / "run")


@pytest.fixture(scope="module")
def inline_results(inline_run):
    return everything(inline_run)


@pytest.fixture(scope="module")
def one_arm_results(tmp_path_factory):
    """Return the inline results of the first arm alone, which two nodes take less time for."""
    return everything(run(one_arm(), tmp_path_factory.mktemp("one") / "run"))


def one_arm():
    tree = copy.deepcopy(TINY)
    return tree | {"arms": tree["arms"][:1]}


def test_a_second_run_of_the_resolved_scenario_gives_the_same_bits(tiny, tmp_path, inline_run):
    resolved = yaml.safe_load((inline_run / "scenario.resolved.yaml").read_text())
    assert validate_scenario(resolved, "resolved") == validate_scenario(tiny, "test")
    assert everything(run(resolved, tmp_path / "again")) == everything(inline_run)


def test_other_shards_give_the_same_bits(tiny, tmp_path, inline_results):
    tiny = with_engine(tiny, shard_size=3)
    assert everything(run(tiny, tmp_path / "shards")) == inline_results


def test_ray_hosts_give_the_same_bits_as_inline(tiny, tmp_path, inline_results):
    tree = with_engine(tiny, backend="ray", hosts=4)  # one host: test_drawn_scenarios; two: below
    assert everything(run(tree, tmp_path / "hosts")) == inline_results


def kill_attacks(monkeypatch):
    """Kill every process that runs an attack when the first one is waited for."""
    wait, killed = RayCluster.wait, []

    def wait_and_kill(self, references, what, *rest, **options):
        if what == "an adversary" and not killed:
            killed.extend(running_attacks())
            for process in killed:
                process.kill()
        return wait(self, references, what, *rest, **options)

    monkeypatch.setattr(RayCluster, "wait", wait_and_kill)
    return killed


def running_attacks():
    """Return the processes of attacks, once one has started.

    Its attack may have ended already where this process is slow: it is given another one.
    """
    deadline = time.monotonic() + 180.0
    while time.monotonic() < deadline:
        children = psutil.Process().children(recursive=True)
        started = [child for child in children if has_started(" ".join(child.cmdline()))]
        if started:
            return started
        time.sleep(0.05)
    raise AssertionError("no attack began")


def has_started(command):
    return "_JobActor" in command and "__init__" not in command


def test_queries_replays_and_error_bounds_do_not_depend_on_hosts(tiny, tmp_path, monkeypatch):
    """What a query service answers and the driver computes, or steers, are results like any.

    So is what an attack finds that is killed while it runs, and starts over.
    """
    tiny["training"]["rounds"] = 1
    noise = {"name": "gaussian_noise", "scale": 0.5}
    noisy = {**tiny["arms"][0], "defence": noise}
    tiny["arms"] = [noisy, {**noisy, "name": "hijacked", "hijacked_by": "steers"}]
    asks = {"weights": False, "queries": 80}
    tiny["adversaries"] = [
        {"name": "asks", "attack": "ridge", "knowledge": asks, "victims": "both"},
        {"name": "labels", "attack": "label_inference", "knowledge": {"weights": False}},
        {"name": "replays", "attack": "ridge", "knowledge": {"replays": 4}},
        {"name": "steers", "attack": {"name": "fsha", "pilot_steps": 4, "updates_per_step": 1}},
    ]
    tiny["adversaries"][3]["position"] = {"tap": "cloud"}
    inline = everything(run(tiny, tmp_path / "inline"))
    killed = kill_attacks(monkeypatch)
    on_ray = with_engine(tiny, backend="ray", hosts=2)
    assert everything(run(on_ray, tmp_path / "ray")) == inline
    host = json.loads((tmp_path / "ray" / "host.json").read_text())
    assert host["adversary_restarts"] == len(killed) > 0
    summary = results_of(tmp_path / "inline")
    assert all(check["passed"] for check in summary["self_checks"])
    assert {"asks", "steers"} <= {entry["adversary"] for entry in summary["arms"][1]["attacks"]}
    (bound,) = summary["arms"][0]["error_bounds"]
    assert [level["replays"] for level in bound["levels"]] == [1, 4]
    attacks = {(a["adversary"], a["attack"]): a for a in summary["arms"][0]["attacks"]}
    assert 0 < attacks["asks", "ridge"]["queries"] <= 80
    on_training = summary["arms"][0]["training_attacks"][-1]["result"]
    assert (on_training["adversary"], on_training["attack"]) == ("asks", "ridge")
    assert 0 < on_training["queries"] <= 80
    assert attacks["replays", "ridge"]["smoothed"][0]["mse"] > bound["levels"][1]["mse"]
    assert attacks["labels", "label_inference"]["inferred"]["class"]["n"] > 5


def test_another_seed_gives_other_results(tmp_path, one_arm_results):
    other = everything(run(one_arm() | {"seed": 4}, tmp_path / "other"))
    assert all(other[name] != content for name, content in one_arm_results.items())


@pytest.mark.parametrize(
    ("phase", "steps"),
    [("train undefended", 2), ("serve undefended", 0), ("attack undefended", 1), ("train sift", 1)],
)
def test_resumed_runs_end_with_the_same_bits(tiny, tmp_path, inline_results, phase, steps):
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(tiny, folder, StopAt(phase, steps))
    assert results_of(folder)["status"] == "interrupted"
    assert (folder / "report.html").exists()
    assert everything(run(tiny, folder, resume=True)) == inline_results


def test_a_damaged_newest_checkpoint_falls_back_on_the_one_before(tiny, tmp_path, inline_results):
    folder, said = tmp_path / "run", []
    with pytest.raises(KeyboardInterrupt):
        run(tiny, folder, StopAt("train undefended", 2))
    newest = sorted((folder / "checkpoints" / "undefended").glob("round-*.safetensors"))[-1]
    content = bytearray(newest.read_bytes())
    content[-1000] ^= 1  # one bit of a weight; other damage: test_checkpoint.py
    newest.write_bytes(content)
    display = Display()
    display.say = said.append
    run(tiny, folder, display, resume=True)
    assert [line for line in said if not line.startswith(("data: ", "warning: "))] == [
        f"{newest} is damaged; falling back on the one before"
    ]
    assert everything(folder) == inline_results


@pytest.mark.parametrize("strategy", ["fedavg", {"name": "fedadam", "eta": 0.01}])
def test_moments_of_strategies_and_devices_survive_a_resume(tiny, tmp_path, strategy):
    tiny["training"]["strategy"] = strategy
    tiny["training"]["edge_optimiser"] = {"method": "adam", "learning_rate": 0.003}
    tiny["arms"] = tiny["arms"][:1]
    whole = everything(run(tiny, tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        run(tiny, tmp_path / "cut", StopAt("train undefended", 2))
    assert everything(run(tiny, tmp_path / "cut", resume=True)) == whole


def test_a_run_resumes_where_no_device_has_answered_yet(tiny, tmp_path):
    tiny["fleet"]["availability"] = {"name": "bernoulli", "probability": 1e-9}
    tiny["arms"] = tiny["arms"][:1]
    whole = run(tiny, tmp_path / "whole")
    rounds = pq.read_table(whole / "rounds.parquet")
    assert rounds["offline"].to_pylist() == rounds["cohort"].to_pylist()
    with pytest.raises(KeyboardInterrupt):
        run(tiny, tmp_path / "cut", StopAt("train undefended", 2))
    assert everything(run(tiny, tmp_path / "cut", resume=True)) == everything(whole)


def test_defences_with_weights_of_their_own_give_the_same_bits_everywhere(tiny, tmp_path):
    combined = {"name": "cem", "base": {"name": "quantisation", "base": "disco"}}
    tiny["arms"] = [{**tiny["arms"][1], "defence": combined}]
    tiny["training"]["strategy"] = {"name": "fedadam", "eta": 0.01}
    whole = everything(run(tiny, tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        run(with_engine(tiny, backend="ray", hosts=2), tmp_path / "cut", StopAt("train sift", 2))
    inline = with_engine(tiny, backend="inline")
    assert everything(run(inline, tmp_path / "cut", resume=True)) == whole


def kill_host(number=0):
    hosts = [
        child
        for child in psutil.Process().children(recursive=True)
        if "_HostActor" in " ".join(child.cmdline())
    ]
    assert hosts
    hosts[number % len(hosts)].kill()
    hosts[number % len(hosts)].wait(10)


def stop_hosts():
    """Stop all hosts, as SIGSTOP does: they neither answer nor die."""
    for child in psutil.Process().children(recursive=True):
        if "_HostActor" in " ".join(child.cmdline()):
            child.suspend()


def test_a_stopped_host_is_replaced_and_gives_the_same_bits(tmp_path, one_arm_results, monkeypatch):
    """Stopped when devices remember something: within a step, and once they have the front-end."""
    monkeypatch.setattr(stopped, "ENDED_AFTER_S", 3.0)
    handle, calls = RayHosts.handle, []

    def handle_and_stop(self, shards):
        kind = shards[0][1][0].metadata.message_type
        calls.append(kind)
        if (kind, calls.count(kind)) in {(protocol.BACKWARD, 4), (protocol.INFER, 1)}:
            stop_hosts()
        return handle(self, shards)

    monkeypatch.setattr(RayHosts, "handle", handle_and_stop)
    tree = with_engine(one_arm(), backend="ray", hosts=1)
    assert everything(run(tree, tmp_path / "run")) == one_arm_results
    host = json.loads((tmp_path / "run" / "host.json").read_text())
    assert host["host_restarts"] == 2


def test_a_host_killed_before_its_sums_gives_the_same_bits(tmp_path, one_arm_results, monkeypatch):
    """It dies with what its devices trained in the round, after they have answered."""
    add_up, rounds = Exchange.add_up, []

    def kill_and_add_up(self, shards):
        rounds.append(len(shards))
        if len(rounds) <= 2:
            kill_host(len(rounds))
            self._made.clear()  # as where they are too large to be made beforehand
        return add_up(self, shards)

    monkeypatch.setattr(Exchange, "add_up", kill_and_add_up)
    tree = with_engine(one_arm(), backend="ray", hosts=2)
    assert everything(run(tree, tmp_path / "run")) == one_arm_results
    host = json.loads((tmp_path / "run" / "host.json").read_text())
    assert host["host_restarts"] == 2
    assert max(rounds) > 1


class TwoNodes:
    """A cluster of two nodes on this machine, and the places of the hosts that run on it."""

    def __init__(self, cluster, cpus):
        self.cluster = cluster
        self.second = cluster.add_node(
            num_cpus=cpus, node_ip_address="127.0.0.1", include_dashboard=False
        )
        self.places = []

    def look(self, hosts):
        places = ray.get([actor.place.remote() for actor in hosts.actors])
        self.places.append([node for node, _ in places])

    def run(self, tree, folder, monkeypatch):
        """Run on it, as on the cluster that this machine belongs to."""
        monkeypatch.setenv("RAY_ADDRESS", self.cluster.address)
        scenario = validate_scenario(with_engine(tree, backend="ray"), "test")
        run_experiment(scenario, folder, Progress(), ray_address="auto")
        assert not ray.is_initialized()
        assert all(item.remaining_processes_alive() for item in self.cluster.list_all_nodes())
        return json.loads((folder / "host.json").read_text())


NOTICE_SOON = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_failure_threshold": 3,
}


@pytest.fixture
def two_nodes():
    """Return a function that starts two nodes with a given number of cores each."""
    with contextlib.ExitStack() as clusters:

        def start(cpus, **head):
            return TwoNodes(clusters.enter_context(cluster_of_one_node(cpus, **head)), cpus)

        yield start


@pytest.mark.long
def test_two_nodes_whose_hosts_are_killed_give_the_same_bits(
    tmp_path, one_arm_results, monkeypatch, two_nodes
):
    """Killed when devices remember something: within a step, and once they have the front-end."""
    monkeypatch.setenv("PYTHONPATH", str(PROJECT_ROOT))  # as on nodes where it is installed
    handle, calls, nodes = RayHosts.handle, [], two_nodes(1)

    def handle_and_kill(self, shards):
        kind = shards[0][1][0].metadata.message_type
        calls.append(kind)
        nodes.look(self)
        if (kind, calls.count(kind)) in {(protocol.BACKWARD, 4), (protocol.INFER, 1)}:
            kill_host(calls.count(kind))
        return handle(self, shards)

    monkeypatch.setattr(RayHosts, "handle", handle_and_kill)
    host = nodes.run(one_arm(), tmp_path / "run", monkeypatch)
    assert len({place for places in nodes.places for place in places}) == 2
    assert everything(tmp_path / "run") == one_arm_results
    assert (host["host_restarts"], host["hosts"]) == (2, 2)


@pytest.mark.long
def test_stopped_hosts_of_two_nodes_give_the_same_bits(
    tmp_path, one_arm_results, monkeypatch, two_nodes
):
    """A process on the second node looks after its host, with the usual limit."""
    monkeypatch.setenv("PYTHONPATH", str(PROJECT_ROOT))
    handle, calls, nodes = RayHosts.handle, [], two_nodes(1)

    def handle_and_stop(self, shards):
        calls.append(shards[0][1][0].metadata.message_type)
        if calls[-1] == protocol.BACKWARD and calls.count(protocol.BACKWARD) == 4:
            stop_hosts()
        return handle(self, shards)

    monkeypatch.setattr(RayHosts, "handle", handle_and_stop)
    host = nodes.run(one_arm(), tmp_path / "run", monkeypatch)
    assert everything(tmp_path / "run") == one_arm_results
    assert (host["host_restarts"], host["hosts"]) == (2, 2)


@pytest.mark.long
def test_a_node_that_dies_leaves_its_hosts_to_the_other_and_the_bits_alone(
    tmp_path, one_arm_results, monkeypatch, two_nodes
):
    monkeypatch.setenv("PYTHONPATH", str(PROJECT_ROOT))
    handle, calls, nodes = RayHosts.handle, [], two_nodes(2, _system_config=NOTICE_SOON)

    def handle_and_end_node(self, shards):
        calls.append(shards[0][1][0].metadata.message_type)
        nodes.look(self)
        if calls.count(protocol.BACKWARD) == 4 and calls[-1] == protocol.BACKWARD:
            nodes.cluster.remove_node(nodes.second, allow_graceful=False)
        return handle(self, shards)

    monkeypatch.setattr(RayHosts, "handle", handle_and_end_node)
    host = nodes.run(with_engine(one_arm(), hosts=2), tmp_path / "run", monkeypatch)
    before, after = nodes.places[0], nodes.places[-1]
    assert len(set(before)) == 2
    assert len(set(after)) == 1
    assert set(after) < set(before)
    assert everything(tmp_path / "run") == one_arm_results
    assert host["host_restarts"] >= 1
