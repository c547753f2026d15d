"""The Python API: the command line's results and errors, read as tables."""

import logging
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import yaml

from testbed import load_run, run_scenario
from testbed.core.errors import UserError
from testbed.engine.logs import NOISY
from testbed.scenario.loading import validate_scenario


def test_importing_the_package_loads_nothing_and_changes_nothing():
    code = (
        "import os, sys; before = dict(os.environ); import testbed; "
        "assert before == dict(os.environ); "
        "print([m for m in ('torch', 'flwr', 'ray', 'pydantic', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def logging_set_up():
    """Return where the libraries log, and at which level."""
    loggers = [logging.getLogger(name) for name in (None, *NOISY)]
    return [(item.name, list(item.handlers), item.level, item.propagate) for item in loggers]


@pytest.mark.usefixtures("without_figures")
def test_same_bytes_as_the_command_line_and_tables_that_agree(finished_run, tmp_path, capsys):
    tree = yaml.safe_load((finished_run / "scenario.resolved.yaml").read_text())
    tree["fleet"]["size"] = 99
    out = tmp_path / "python"
    before = logging_set_up()
    result = run_scenario(tree, overrides={"fleet.size": 8}, out=out, progress=False)
    assert logging_set_up() == before  # as a notebook's user has set it up
    assert [handler for _, handlers, *_ in before for handler in handlers]
    assert capsys.readouterr().err == ""
    assert tree["fleet"]["size"] == 99  # the caller's tree is the caller's
    for name in ("results.json", "attacks.parquet", "requests.parquet", "devices.parquet"):
        assert (out / name).read_bytes() == (finished_run / name).read_bytes()
    assert result.results == load_run(finished_run).results
    assert result.complete
    assert result.report.exists()
    assert result.scenario.fleet.size == 8
    assert result.devices.num_rows == 2 * 8
    assert result.rounds.column("arm").to_pylist() == ["undefended", "sift"]
    assert set(result.tables) == {"rounds", "devices", "requests", "attacks"}
    for row, arm in zip(result.headline.to_pylist(), result.results["arms"], strict=True):
        requests = [r for r in result.requests.to_pylist() if r["arm"] == row["arm"]]
        right = [r["correct"] for r in requests if r["status"] == "answered"]
        assert row["answered"] == len(right)
        assert row["test_accuracy"] == pytest.approx(sum(right) / len(right))
        scores = {
            (a["adversary"], a["attack"]): a["scores"]["mse"]["value"] for a in arm["attacks"]
        }
        chosen_by = {(a["adversary"], a["attack"]): a["validation_mse"] for a in arm["attacks"]}
        best = min(("eaves", "ridge"), ("cloud", "ridge"), key=chosen_by.get)
        assert (row["best_adversary"], row["mse"]) == (best[0], scores[best])
        assert row["mean_image_mse"] == scores[best[0], "mean_image"]
    shown = result._repr_html_()
    assert shown.count(">undefended</th>") == 1
    assert "test accuracy" in shown
    with pytest.raises(UserError, match="results exist already"):
        run_scenario(tree, overrides=["fleet.size=8"], out=out, progress=False)


def test_tables_become_data_frames_of_the_same_values(finished_run):
    result = load_run(finished_run)
    tables = {**result.tables, "headline": result.headline}
    frames = {name: table.to_pandas() for name, table in tables.items()}
    assert set(frames) == {"rounds", "devices", "requests", "attacks", "headline"}
    for name, frame in frames.items():
        table = tables[name]
        assert list(frame.columns) == table.column_names
        assert len(frame) == table.num_rows > 0
        for column in frame.columns:
            values = [None if pd.isna(value) else value for value in frame[column].tolist()]
            assert values == table.column(column).to_pylist(), (name, column)
    requests, attacks, headline = (frames[name] for name in ("requests", "attacks", "headline"))
    assert requests["correct"].dtype == np.bool_
    assert requests["latency_ms"].dtype == attacks["mse"].dtype == np.float64
    answered = requests[requests["status"] == "answered"]
    accuracy = answered.groupby("arm")["correct"].mean()
    by_arm = headline.set_index("arm")
    assert by_arm["test_accuracy"].to_dict() == pytest.approx(accuracy.to_dict())
    assert (by_arm["mse"] > 0).all()


@pytest.mark.parametrize(
    ("scenario", "overrides", "message"),
    [
        ("nowhere.yaml", (), r"nowhere\.yaml: cannot read the scenario"),
        (None, {"fleet.sise": 3}, r"scenario: fleet\.sise: unknown key \(did you mean 'size'"),
        (None, {"arms.none.defence": "x"}, r"overrides: arms\.none: no such item; known: undef"),
        (None, {"seed.x": 1}, r"overrides: seed\.x: 'seed' is a single value"),
        (None, {"": 1}, r"overrides: '' is not a key path"),
        (None, "seed=1", "overrides: give a list"),
        (None, ["seed"], r"--set seed: give KEY\.PATH=VALUE"),
        (None, {"sweep": {"seed": [1, 2]}}, r"scenario: sweep: expands to many scenarios"),
        (7, (), "scenario: give a file or a mapping of sections, not int"),
        ({1: 2}, (), "scenario: "),
    ],
)
def test_bad_input_is_a_user_error_and_writes_nothing(
    tiny, tmp_path, monkeypatch, scenario, overrides, message
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        run_scenario(tiny if scenario is None else scenario, overrides=overrides)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_scenario_that_is_not_a_regular_file_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(UserError, match=r"pipe\.yaml: not a regular file"):
        run_scenario(tmp_path / "pipe.yaml")


def test_a_validated_scenario_and_a_missing_run(tiny, tmp_path):
    scenario = validate_scenario(tiny, "test")
    with pytest.raises(UserError, match="unknown dataset"):
        run_scenario(scenario, overrides=["data.name=none"], out=tmp_path / "x")
    with pytest.raises(UserError, match="no such results folder"):
        load_run(tmp_path / "x")
