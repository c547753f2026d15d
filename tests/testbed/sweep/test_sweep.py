"""Sweeps and batches: points, their folders, resuming, several at once, and the index."""

import csv
import errno
import json
import subprocess
import sys

import pytest
import yaml
from whole_runs import everything

from testbed import run_scenario, run_sweep
from testbed.core.errors import HostError, UserError
from testbed.run import main
from testbed.sweep import command, runner
from testbed.sweep.folder import MANIFEST, open_sweep_folder
from testbed.sweep.grid import expand, expand_files


def points_of(tree, sweep, changes=()):
    return expand({**tree, "sweep": sweep}, changes, "a.yaml")


def test_the_grid_is_a_product_in_the_order_written(tiny):
    defences = ["none", {"name": "siftfunnel", "beta": 0.4}]
    sweep = {"seed": [5, 6], "fleet": {"size": [8]}, "arms.sift.defence": defences}
    points = points_of(tiny, sweep, [("training.rounds", 1)])
    assert [(p.scenario.seed, p.scenario.arms[1].defence.name) for p in points] == [
        (5, "none"), (5, "siftfunnel"), (6, "none"), (6, "siftfunnel"),
    ]  # fmt: skip
    assert points[1].scenario.arms[1].defence.options.items() >= {("beta", 0.4)}
    assert [p.scenario.training.rounds for p in points] == [1] * 4
    assert points[0].name == "seed-5_size-8_defence-none"
    assert points[1].name.startswith("seed-5_size-8_defence-siftfunnel-")
    assert len({p.name for p in points}) == 4
    # Names and scenarios stay when a sweep grows, because resuming identifies points by them.
    sweep["seed"].append(7)
    grown = points_of(tiny, sweep, [("training.rounds", 1)])
    assert [(p.name, p.scenario) for p in grown[:4]] == [(p.name, p.scenario) for p in points]
    assert "sweep" not in points[0].scenario.model_dump()


def test_names_tell_points_apart(tiny):
    sweep = {
        "training.edge_optimiser.learning_rate": [0.01, 1e-05],
        "training.cloud_optimiser.learning_rate": [0.001],
        "description": ["a b", "a/b", "..", "x" * 300],
    }
    names = [p.name for p in points_of(tiny, sweep)]
    assert len(set(names)) == 8
    assert names[0].startswith("edge_optimiser.learning_rate-0.01_cloud_optimiser.learning_rate")
    assert all(len(name) < 200 and "/" not in name and not name.startswith(".") for name in names)


@pytest.mark.parametrize(
    ("sweep", "changes", "message"),
    [
        ({"fleet.sise": [3, 4]}, (), r"a\.yaml, sweep point fleet\.sise=3: fleet\.sise: unknown"),
        ({"fleet.size": [8, 1]}, (), r"sweep point fleet\.size=1: training\.cohort_size \(4\)"),
        ({"arms.none.defence": ["x"]}, (), r"sweep\.arms\.none: no such item; known: undefended"),
        ({"seed.x": [1]}, (), r"a\.yaml: sweep\.seed\.x: 'seed' is a single value"),
        ({"seed": 3}, (), r"a\.yaml: sweep\.seed: give a list of values, got 3"),
        ({"seed": []}, (), r"sweep\.seed: give a list"),
        ({"seed": [1, 2, 1]}, (), r"sweep\.seed: the value 1 is given twice"),
        ({"fleet": {"size": [8]}, "fleet.size": [9]}, (), r"sweep\.fleet\.size: .* swept twice"),
        ({"fleet.": [1]}, (), r"sweep\.fleet\.: not a key path"),
        ({}, (), r"a\.yaml: sweep: give key paths with lists"),
        ([1], (), r"a\.yaml: sweep: give key paths with lists"),
        ({"seed": list(range(40)), "fleet.size": list(range(40))}, (), r"1600 points, at most"),
        ({"seed": list(range(1001))}, (), r"sweep\.seed: 1001 values, at most 1000"),
        ({"seed": [1, 2]}, [("seed", 3)], r"sweep\.seed sets the same key as --set seed"),
    ],
)
def test_bad_sweeps_are_one_sentence_before_anything_runs(tiny, sweep, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        points_of(tiny, sweep, changes)
    assert "\n" not in str(caught.value)


def test_several_files_are_one_batch(tiny, write_scenario, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "print_dry_run", lambda scenario: print(scenario.name, "first"))
    one = write_scenario(tiny, "one.yaml")
    other = write_scenario({**tiny, "name": "other", "sweep": {"seed": [1, 2]}}, "other.yaml")
    points = expand_files([one, other], ["fleet.size=6"])
    assert [p.name for p in points] == ["tiny", "other_seed-1", "other_seed-2"]
    assert {p.scenario.fleet.size for p in points} == {6}
    assert main([str(one), str(other), "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "other_seed-2" in shown
    assert "tiny first" in shown
    for arguments, words in (
        ([str(one), str(one)], ["one.yaml", "name", "'tiny'"]),
        ([str(one), "--jobs", "2"], ["--jobs", "single run"]),
        ([str(one), str(other), "--jobs", "0"], ["--jobs 0"]),
        ([str(other), "--set", "fleet.mix.0.device=nowhere"], ["seed-1", "nowhere"]),
    ):
        assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert all(word in line for word in words), line
    with pytest.raises(UserError, match="run_sweep run all"):
        run_scenario(other, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.long
@pytest.mark.processes
def test_points_at_once_and_resumed_in_turn_give_the_same_bytes(
    tiny, write_scenario, tmp_path, capsys
):
    tiny["training"]["rounds"] = 1
    tiny["arms"], tiny["adversaries"] = tiny["arms"][:1], tiny["adversaries"][1:]
    tiny["sweep"] = {"seed": [3, 4]}
    path, out = write_scenario(tiny), tmp_path / "out"
    assert main([str(path), "--out", str(out), "--jobs", "2"]) == 0
    shown = capsys.readouterr()
    assert "point 2 of 2, seed-4: complete" in shown.err
    assert "index.html" in shown.out
    # The index holds the points' results. A comparison is written, since seeds can be compared.
    rows = list(csv.DictReader((out / "index.csv").open()))
    assert [(row["point"], row["seed"], row["status"]) for row in rows] == [
        ("seed-3", "3", "complete"), ("seed-4", "4", "complete"),
    ]  # fmt: skip
    for row in rows:
        (arm,) = json.loads((out / row["point"] / "results.json").read_text())["arms"]
        assert float(row["test_accuracy"]) == arm["accuracy"]["test"]["value"]
        assert float(row["mse"]) in [a["scores"]["mse"]["value"] for a in arm["attacks"]]
    page = (out / "index.html").read_text()
    assert 'href="seed-4/report.html"' in page
    assert 'href="comparison/compare.html"' in page
    assert (out / "comparison" / "compare.json").exists()

    # Only the point that was interrupted before it wrote its results runs again.
    before = {name: everything(out / name) for name in ("seed-3", "seed-4")}
    untouched = (out / "seed-3" / "host.json").read_bytes()
    (out / "seed-4" / "results.json").unlink()
    (out / "seed-4" / "checkpoints" / "undefended" / "arm.json").unlink()
    with pytest.raises(UserError, match=r"a sweep exists already; give --resume"):
        run_sweep(path, out=out)
    with pytest.raises(UserError, match=r"seed-3.*another scenario \(differs in: training\)"):
        run_sweep(path, out=out, resume=True, overrides={"training.rounds": 2})
    result = run_sweep(path, out=out, resume=True, progress=False)
    assert {name: everything(out / name) for name in before} == before
    assert (out / "seed-3" / "host.json").read_bytes() == untouched
    assert set(result.points) == {"seed-3", "seed-4"}
    assert result.failed == {}
    assert result.index.column("point").to_pylist() == ["seed-3", "seed-4"]
    # Running the point alone gives the same results.
    assert yaml.safe_load((out / "seed-4" / "scenario.resolved.yaml").read_text())["seed"] == 4


def test_a_failing_point_does_not_stop_the_others(tiny, tmp_path, capsys):
    tiny["data"] = {"name": "cifar10"}
    paths = ["/nowhere/one", "/nowhere/two"]
    tiny["sweep"] = {"data.path": paths}
    result = run_sweep(tiny, out=tmp_path / "out")
    assert len(result.failed) == 2
    assert all(path in reason for path, reason in zip(paths, result.failed.values(), strict=True))
    assert capsys.readouterr().err.count("failed: ") == 2
    rows = list(csv.DictReader((tmp_path / "out" / "index.csv").open()))
    assert [row["status"] for row in rows] == ["failed", "failed"]
    assert [paths[i] in row["error"] for i, row in enumerate(rows)] == [True, True]
    # --force replaces sweeps only.
    (tmp_path / "out" / "mine.txt").write_text("kept")
    run_sweep(tiny, out=tmp_path / "out", force=True, progress=False)
    assert (tmp_path / "out" / "mine.txt").read_text() == "kept"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("kept")
    with pytest.raises(UserError, match="holds files that are no sweep"):
        run_sweep(tiny, out=tmp_path / "other", force=True)


@pytest.mark.parametrize("name", ["..", ".", "", "../beside", "a\0b"])
def test_a_damaged_list_of_points_removes_nothing_outside_the_sweep(tmp_path, name):
    sweep, beside = tmp_path / "sweep", tmp_path / "beside"
    for folder in (sweep, beside):
        folder.mkdir()
    for folder in (tmp_path, sweep, beside):
        (folder / "scenario.resolved.yaml").write_text("a finished run")
    (sweep / MANIFEST).write_text(json.dumps({"version": 1, "points": [{"name": name}]}))
    open_sweep_folder(sweep, [], force=True)
    for folder in (tmp_path, sweep, beside):
        assert (folder / "scenario.resolved.yaml").exists()


def test_a_sweep_that_cannot_be_written_keeps_its_points(tmp_path, monkeypatch):
    (tmp_path / "seed-1").mkdir()
    (tmp_path / "seed-1" / "scenario.resolved.yaml").write_text("a finished run")
    (tmp_path / MANIFEST).write_text(json.dumps({"version": 1, "points": [{"name": "seed-1"}]}))

    def read_only(**options):
        raise OSError(errno.EROFS, "Read-only file system", str(options["dir"]))

    monkeypatch.setattr("testbed.sweep.folder.tempfile.TemporaryFile", read_only)
    with pytest.raises(UserError, match="Read-only"):
        open_sweep_folder(tmp_path, [], force=True)
    assert (tmp_path / "seed-1" / "scenario.resolved.yaml").exists()
    monkeypatch.undo()
    open_sweep_folder(tmp_path, [], force=True)
    assert not (tmp_path / "seed-1").exists()


def test_points_join_a_cluster_one_after_another(
    tiny, write_scenario, tmp_path, monkeypatch, capsys
):
    joined = []

    def execute(scenario, folder, *rest, ray_address, **options):
        joined.append((scenario.seed, ray_address))
        raise HostError("the cluster is full")

    monkeypatch.setattr(runner, "execute", execute)
    monkeypatch.setattr(runner, "check_address", lambda address: None)
    tiny["sweep"] = {"seed": [5, 6]}
    inline = write_scenario(tiny, "inline.yaml")
    tiny["engine"]["backend"] = "ray"
    command_line = [str(write_scenario(tiny)), "--out", str(tmp_path / "out")]
    address = ["--ray-address", "10.0.0.1:6379"]
    assert main([str(inline), *command_line[1:], *address]) == 2
    assert "seed-5: --ray-address has no effect with" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*command_line, *address]) == 1
    assert joined == [(5, "10.0.0.1:6379"), (6, "10.0.0.1:6379")]
    assert capsys.readouterr().err.count(": the cluster is full") == 4  # as they go, and at the end


@pytest.mark.long
@pytest.mark.processes
def test_a_worker_ends_with_its_starter(tiny, write_scenario, tmp_path):
    tiny["training"]["rounds"] = 400
    scenario = str(write_scenario(tiny))
    worker = subprocess.Popen(
        [sys.executable, "-m", "testbed.sweep.worker", scenario, "--out", str(tmp_path / "out")],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    for line in worker.stderr:
        if b"load data and fleet: done" in line:
            break
    worker.stdin.close()
    assert b"interrupted" in worker.stderr.read()
    assert worker.wait(60) == 130
