"""Joining a Ray cluster: every problem is one sentence before anything is written."""

import pytest
import ray
from ray._private.utils import check_version_info

from testbed.core.errors import HostError, UserError
from testbed.engine.hosts.on_ray import address as ray_address
from testbed.engine.hosts.on_ray import hosts as ray_hosts
from testbed.engine.hosts.on_ray.cluster import Cluster
from testbed.engine.hosts.on_ray.external_cluster import ExternalCluster, versions
from testbed.engine.hosts.on_ray.hosts import RayHosts
from testbed.run import main

ADDRESS = "127.0.0.1:6379"


def test_a_cluster_of_other_versions_is_refused_with_both(monkeypatch):
    def init(**options):
        others = {"ray_version": "1.2.3", "python_version": "3.7.9"}
        check_version_info(others, "node 127.0.0.1")  # what ray.init does with the cluster's

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(UserError) as caught:
        ExternalCluster(ADDRESS)
    sentence = str(caught.value)
    assert sentence.startswith(f"--ray-address: cannot join {ADDRESS} (Version mismatch: ")
    assert "\n" not in sentence
    assert all(version in sentence for version in ("1.2.3", "3.7.9", ray.__version__))


@pytest.mark.parametrize("name", [*versions()])
def test_a_node_with_another_version_is_named(monkeypatch, name):
    node = {"Alive": True, "NodeManagerAddress": "10.0.0.7", "NodeID": "ab" * 28}
    gone = {"Alive": False, "NodeManagerAddress": "10.0.0.8", "NodeID": "cd" * 28}

    class Probe:
        def options(self, scheduling_strategy):
            assert scheduling_strategy.node_id == node["NodeID"]
            return self

        def remote(self):
            return versions() | {name: "0.0"}

    monkeypatch.setattr(ray, "nodes", lambda: [gone, node])
    monkeypatch.setattr(ray, "remote", lambda **options: lambda function: Probe())
    monkeypatch.setattr(ray, "get", lambda found, timeout: found)
    with pytest.raises(UserError, match=rf"node 10\.0\.0\.7 \(abababab\) has {name} 0\.0, this"):
        object.__new__(ExternalCluster)._check_versions()


def test_auto_is_this_machines_cluster_or_one_sentence(
    tiny, tmp_path, write_scenario, monkeypatch, capsys
):
    monkeypatch.setenv("RAY_ADDRESS", ADDRESS)
    assert ray_address.found_address("auto") == ADDRESS
    assert ray_address.found_address("10.0.0.1:1") == "10.0.0.1:1"
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setattr("ray._private.utils.read_ray_address", lambda: None)
    tiny["engine"]["backend"] = "ray"
    out = tmp_path / "run"
    command = [str(write_scenario(tiny)), "--out", str(out), "--ray-address", "auto"]
    assert main(command) == 2
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if line.startswith("error: ")] == [said[-1]]
    assert "'auto' finds no Ray cluster on this machine; start one with 'ray start" in said[-1]
    assert not out.exists()


def test_a_host_that_finds_no_room_after_its_node_died_ends_the_run(monkeypatch):
    class Full(Cluster):
        foreign = True

        def wait(self, references, what, count=None, within_s=0.0):
            raise HostError(f"{what} did not answer within {within_s:g} s")

    class Waiting:
        class usage:  # noqa: N801
            @staticmethod
            def remote():
                return None

    monkeypatch.setattr(RayHosts, "_new_actor", lambda self: Waiting)
    monkeypatch.setattr(ray_hosts.ray, "kill", lambda actor: None)
    hosts = RayHosts(Full(), 2)
    with pytest.raises(HostError, match=r"180 s: 2 hosts need as many free CPUs.*--resume"):
        hosts._replace(1, "its node died")
