"""Concurrent points of a sweep share one Ray with room for all, and leave nothing behind."""

import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import yaml
from clusters import cluster_of_one_node
from whole_runs import everything

from testbed import run_sweep
from testbed.core.errors import HostError
from testbed.core.project import PROJECT_ROOT
from testbed.engine.hosts.on_ray import cluster as ray_cluster
from testbed.engine.hosts.on_ray import external_cluster as ray_joined
from testbed.engine.hosts.on_ray.cluster import LocalCluster
from testbed.engine.hosts.on_ray.watchdog import processes_of
from testbed.run import main
from testbed.sweep import processes, runner, shared_ray
from testbed.sweep.folder import JOBS, open_sweep_folder

ADDRESS = "10.0.0.1:6379"


@pytest.fixture
def sweep(tiny, write_scenario, tmp_path):
    """Return a function that builds the command of a sweep over three seeds, and its folder."""
    tiny["sweep"] = {"seed": [3, 4, 5]}
    tiny["engine"]["backend"] = "ray"

    def command(*more, **engine):
        tiny["engine"] |= engine
        return [str(write_scenario(tiny)), "--out", str(tmp_path / "out"), *more]

    return command, tmp_path / "out"


# With fake processes -----------------------------------------------------------------------------


class FakeRay:
    """Ray on this machine; on request, the first one of a test dies at the fourth check."""

    def __init__(self, world, cores):
        self.world, self.cores, self.looks = world, cores, 0
        self.address = f"127.0.0.1:{7000 + len(world.rays)}"

    def check(self):
        self.looks += 1
        if self.world.first_dies and self is self.world.rays[0] and self.looks == 4:
            raise HostError("Ray's process 7 is gone; continue with --resume")

    def close(self):
        self.world.events.append("Ray ends")


class FakeWorker:
    """A point's process; it ends by itself if its seed is in ``ending``."""

    def __init__(self, world, command):
        self.world, self.command, self.returncode = world, command, None
        self.scenario = yaml.safe_load(Path(command[3]).read_text())
        joins = "--ray-address" in command
        self.address = command[command.index("--ray-address") + 1] if joins else None

    def poll(self):
        if self.world.interrupt_at == len(self.world.workers):
            self.world.interrupt_at = None
            raise KeyboardInterrupt
        if self.returncode is None and self.scenario["seed"] in self.world.ending:
            self.returncode = 0
        return self.returncode

    def send_signal(self, number):
        assert number == signal.SIGINT
        self.returncode = 130
        self.world.events.append("point ends")

    def wait(self, timeout):
        return self.returncode


class RunContext:
    """The fake processes of a test: how they behave, and how they ended."""

    def __init__(self):
        self.rays, self.workers, self.events = [], [], []
        self.ending, self.first_dies, self.interrupt_at = {3, 4, 5}, False, None

    def start_ray(self, cores):
        self.rays.append(FakeRay(self, cores))
        return self.rays[-1]

    def start_worker(self, command, **options):
        self.workers.append(FakeWorker(self, command))
        return self.workers[-1]


@pytest.fixture
def world(monkeypatch):
    world = RunContext()
    fake = {"Popen": world.start_worker, "TimeoutExpired": subprocess.TimeoutExpired}
    monkeypatch.setattr(processes, "subprocess", SimpleNamespace(PIPE=-1, DEVNULL=-3, **fake))
    monkeypatch.setattr(processes, "POLL_S", 0.0)
    monkeypatch.setattr(ray_cluster, "LocalCluster", world.start_ray)
    monkeypatch.setattr(ray_joined, "cpus_of", lambda address: 4)
    monkeypatch.setattr(shared_ray, "default_hosts", lambda: 5)
    monkeypatch.setattr(runner, "check_address", lambda address: None)
    return world


def test_one_ray_has_room_for_all_points_at_once(sweep, world):
    command, out = sweep
    main(command("--jobs", "2"))
    (ray,) = world.rays
    assert ray.cores == 4
    assert [worker.address for worker in world.workers] == [ray.address] * 3
    assert [worker.scenario["engine"]["hosts"] for worker in world.workers] == [2] * 3
    assert world.events == ["Ray ends"]
    # Files for points are in the sweep's folder, never in the temporary folder of the machine.
    assert {Path(worker.command[3]).parent for worker in world.workers} == {out / JOBS}
    assert not (out / JOBS).exists()


def test_hosts_that_a_scenario_asks_for_find_room_too(sweep, world):
    command, _ = sweep
    main(command("--jobs", "8", hosts=7))
    assert world.rays[0].cores == 21  # there are three points
    assert [worker.scenario["engine"]["hosts"] for worker in world.workers] == [7] * 3


def test_points_in_their_own_process_start_no_ray(sweep, world):
    command, _ = sweep
    main(command("--jobs", "2", backend="inline"))
    assert [worker.address for worker in world.workers] == [None] * 3
    assert world.rays == []


def test_where_the_shared_ray_dies_its_points_fail_and_the_others_get_another(sweep, world, capsys):
    command, out = sweep
    world.first_dies, world.ending = True, {5}
    assert main(command("--jobs", "2")) == 1
    first, second = world.rays
    addresses = [first.address, first.address, second.address]
    assert [worker.address for worker in world.workers] == addresses
    assert world.events == ["point ends", "point ends", "Ray ends", "Ray ends"]
    sentence = "Ray's process 7 is gone; continue with --resume"
    rows = list(csv.DictReader((out / "index.csv").open()))
    assert [row["error"] for row in rows] == [sentence, sentence, ""]
    assert [row["status"] for row in rows[:2]] == ["failed", "failed"]
    assert capsys.readouterr().err.count(sentence) == 4  # as they fail, and at the end


def test_an_interrupt_ends_the_points_before_their_ray(sweep, world):
    command, out = sweep
    world.ending, world.interrupt_at = set(), 2
    assert main(command("--jobs", "2")) == 130
    assert world.events == ["point ends", "point ends", "Ray ends"]
    assert not (out / JOBS).exists()


def test_points_at_once_join_a_cluster_that_has_room_for_them(sweep, world, capsys):
    command, out = sweep
    joining = ("--ray-address", ADDRESS)
    for jobs, engine, words in (
        ("3", {"hosts": 2}, "--jobs 3: 3 points at once have 6 hosts"),
        ("2", {"hosts": 3}, f"6 hosts, which need as many CPUs; the cluster at {ADDRESS} has 4"),
    ):
        assert main(command(*joining, "--jobs", jobs, **engine)) == 2
        assert words in capsys.readouterr().err
        assert not out.exists()
    main(command(*joining, "--jobs", "3", hosts=None))
    assert [worker.address for worker in world.workers] == [ADDRESS] * 3
    assert [worker.scenario["engine"]["hosts"] for worker in world.workers] == [1] * 3
    assert (world.rays, world.events) == ([], [])


def test_auto_is_one_cluster_for_all_points(sweep, world, monkeypatch):
    command, _ = sweep
    monkeypatch.setenv("RAY_ADDRESS", ADDRESS)
    main(command("--ray-address", "auto", "--jobs", "2"))
    assert [worker.address for worker in world.workers] == [ADDRESS] * 3


def test_what_a_killed_sweep_has_left_goes_at_its_next_start(tmp_path):
    (tmp_path / JOBS).mkdir()
    (tmp_path / JOBS / "seed-3.yaml").touch()
    (tmp_path / "mine.txt").touch()
    open_sweep_folder(tmp_path, [], force=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.txt", "sweep.json"]


# With Ray ---------------------------------------------------------------------------------------


@pytest.fixture
def short(tiny):
    """Make the sweep's points short; there are two."""
    tiny["training"]["rounds"] = 12
    tiny["arms"], tiny["adversaries"] = tiny["arms"][:1], tiny["adversaries"][1:]
    tiny["sweep"] = {"seed": [3, 4]}
    return tiny


def all_points(out):
    """Return the bytes of all points' results."""
    return {point: everything(out / point) for point in POINTS}


POINTS = ("seed-3", "seed-4")


def in_turn(scenario, out):
    """Run the points one after another in this process, and return their bytes."""
    inline = {"engine.backend": "inline"}
    assert run_sweep(scenario, out=out, overrides=inline, progress=False).failed == {}
    return all_points(out)


def train(out):
    """Return whether all points are in training."""
    return all(any((out / point / "checkpoints").glob("*/round-*")) for point in POINTS)


def wait_until(condition, within_s=180.0):
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.long
@pytest.mark.processes
def test_points_on_a_ray_that_dies_go_on_with_the_bytes_of_points_in_turn(
    sweep, short, tmp_path, monkeypatch, capsys
):
    command, out = sweep
    short["training"]["rounds"] = 20
    rays, start = [], LocalCluster.__init__
    monkeypatch.setattr(
        LocalCluster, "__init__", lambda self, cores: (rays.append(self), start(self, cores))[1]
    )

    def kill_raylet():
        wait_until(lambda: train(out))
        for child in psutil.Process().children(recursive=True):
            if child.name() == "raylet":
                child.kill()

    threading.Thread(target=kill_raylet, daemon=True).start()
    assert main(command("--jobs", "2")) == 1
    rows = list(csv.DictReader((out / "index.csv").open()))
    assert [row["status"] for row in rows] == ["failed", "failed"]
    assert all("Ray's process" in row["error"] for row in rows)
    assert all(row["error"].endswith("continue with --resume") for row in rows)
    assert main(command("--jobs", "2", "--resume")) == 0, capsys.readouterr().err
    assert all_points(out) == in_turn(tmp_path / "scenario.yaml", tmp_path / "in turn")
    assert len(rays) == 2  # one for each command
    assert [processes_of(ray.folder) for ray in rays] == [[], []]
    assert not any(Path(ray.folder).exists() for ray in rays)


@pytest.mark.long
@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda item: item.name)
def test_a_sweep_that_is_ended_leaves_no_process_and_no_temporary_file(sweep, short, number):
    command, out = sweep
    short["training"]["rounds"] = 400
    short["sweep"]["seed"].append(5)  # never begins
    temporary = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))  # short, for Ray's sockets
    process = subprocess.Popen(
        [sys.executable, "-m", "testbed.run", *command("--jobs", "2")],
        cwd=PROJECT_ROOT,
        env={**os.environ, "TMPDIR": str(temporary), "TORCHINDUCTOR_CACHE_DIR": str(out.parent)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    wait_until(lambda: train(out) or process.poll() is not None)
    process.send_signal(number)
    _, errors = process.communicate(timeout=180)
    assert process.returncode == {signal.SIGTERM: 130, signal.SIGKILL: -signal.SIGKILL}[number]
    assert b"Traceback" not in errors
    wait_until(lambda: not [*processes_of(str(temporary)), *processes_of(str(out))])
    wait_until(lambda: not list(temporary.iterdir()))
    temporary.rmdir()
    assert not (out / "seed-5").exists()
    if number == signal.SIGTERM:
        partial = [json.loads((out / point / "results.json").read_text()) for point in POINTS]
        assert [tree["status"] for tree in partial] == ["interrupted"] * 2
        assert not (out / JOBS).exists()


@pytest.mark.long
@pytest.mark.processes
def test_points_at_once_on_a_joined_cluster_give_the_bytes_of_points_in_turn(
    sweep, short, tmp_path, monkeypatch, capsys
):
    command, out = sweep
    monkeypatch.setenv("PYTHONPATH", str(PROJECT_ROOT))  # as on nodes where it is installed
    with cluster_of_one_node(2) as cluster:
        joining = command("--jobs", "2", "--ray-address", cluster.address)
        assert main(joining) == 0, capsys.readouterr().err
        assert all(item.remaining_processes_alive() for item in cluster.list_all_nodes())
    hosts = [json.loads((out / point / "host.json").read_text())["hosts"] for point in POINTS]
    assert hosts == [1, 1]
    assert all_points(out) == in_turn(tmp_path / "scenario.yaml", tmp_path / "in turn")
