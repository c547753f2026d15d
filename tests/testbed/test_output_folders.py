"""Folders of any name work in every command, or are refused before any work is done."""

import os
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from testbed.compare.__main__ import main as compare
from testbed.core.files import check_folder_for_output
from testbed.data.tables import folder_tables
from testbed.export.__main__ import main as export
from testbed.profile.__main__ import main as profile
from testbed.report.__main__ import main as report
from testbed.run import main as run

NOT_UTF_8 = os.fsdecode(b"caf\xe9")
ODD = ["seed:1", "space ", " s3:x", "a'b\"c&d<e>", "é中"]


@pytest.fixture
def outputs(tiny, write_scenario, finished_run, monkeypatch, tmp_path):
    """Return the commands that write a folder, by name, without its name at the end."""
    monkeypatch.chdir(tmp_path)
    small = write_scenario(tiny, "small.yaml")
    grid = write_scenario(tiny | {"sweep": {"seed": [1, 2]}}, "grid.yaml")
    return {
        "run": lambda out: run([str(small), "--out", out]),
        "resume": lambda out: run([str(small), "--resume", "--out", out]),
        "sweep": lambda out: run([str(grid), "--out", out]),
        "compare": lambda out: compare([str(finished_run), "--out", out]),
        "profile": lambda out: profile(["--out", out]),
        "export": lambda out: export([str(finished_run), "--tensorboard", out]),
    }


@pytest.fixture
def no_work(monkeypatch):
    """Let every step fail that takes time."""

    def fail(*arguments, **named):
        raise AssertionError("work began")

    for step in (
        "testbed.engine.experiment.read_run_inputs",
        "testbed.sweep.runner.open_sweep_folder",
        "testbed.compare.comparison.compare",
        "testbed.profile.command.all_variants",
        "testbed.export.to_tensorboard._write",
    ):
        monkeypatch.setattr(step, fail)


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("command", ["run", "resume", "sweep", "compare", "profile", "export"])
@pytest.mark.parametrize(
    ("name", "says"),
    [
        (NOT_UTF_8, "is not UTF-8"),
        (f"{NOT_UTF_8}/below", "is not UTF-8"),
        ("file", "existing file"),
        ("file/below", "existing file"),
        ("x" * 300, "name too long"),
        ("/proc/none", "cannot be written"),
    ],
)
def test_impossible_folders_are_refused_before_work(outputs, capsys, tmp_path, command, name, says):
    if command == "export":
        pytest.importorskip("tensorboard")
    (tmp_path / "file").touch()
    assert outputs[command](name) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert says in lines[0]
    assert {path.name for path in tmp_path.iterdir()} == {"file", "small.yaml", "grid.yaml"}


@pytest.mark.usefixtures("without_figures")
def test_a_run_resumes_in_a_folder_that_looks_like_an_address(outputs, tmp_path):
    assert outputs["run"]("seed:1") == 0
    assert (tmp_path / "seed:1" / "results.json").exists()
    (tmp_path / "seed:1" / "report.html").unlink()
    assert outputs["resume"]("seed:1") == 0
    assert (tmp_path / "seed:1" / "report.html").exists()


@pytest.mark.usefixtures("without_figures")
@pytest.mark.parametrize("name", ODD)
def test_finished_runs_of_odd_names_are_read(outputs, finished_run, tmp_path, name):
    shutil.copytree(finished_run, tmp_path / name)
    assert report([name, "--quiet"]) == 0
    assert compare([name, "--out", f"compared {name}"]) == 0
    pytest.importorskip("tensorboard")
    assert export([name, "--tensorboard", f"logs {name}"]) == 0


def test_a_finished_run_whose_name_is_not_utf_8_is_refused(outputs, finished_run, capsys, tmp_path):
    shutil.copytree(finished_run, tmp_path / NOT_UTF_8)
    for command in (report, compare, lambda names: export([*names, "--tensorboard", "logs"])):
        assert command([NOT_UTF_8]) == 2
        assert "is not UTF-8" in capsys.readouterr().err


def test_data_is_read_from_a_folder_that_looks_like_an_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "s3:data"
    folder.mkdir()
    table = pa.table({"label": [1, 2, 3]})
    with (folder / "train.parquet").open("wb") as file:
        pq.write_table(table, file)
    (found,) = folder_tables(folder.relative_to(tmp_path)).items
    assert pa.Table.from_batches(found.batches(["label"])) == table


def test_nothing_is_left_by_the_check(tmp_path):
    check_folder_for_output(tmp_path / "new" / "below")
    check_folder_for_output(tmp_path)
    assert not list(tmp_path.iterdir())
