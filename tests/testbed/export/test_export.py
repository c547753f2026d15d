"""Export of a finished run: contents, outputs, and errors where a package is missing."""

import importlib.util
import json
import shutil
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from testbed.export.__main__ import main
from testbed.export.content import read_run


def test_everything_exported_is_in_the_results(finished_run):
    run = read_run(finished_run)
    results = json.loads((finished_run / "results.json").read_text())
    channels, height, width = results["data"]["image_shape"]
    assert (run.name, run.seed) == ("tiny", 3)
    assert [arm.name for arm in run.arms] == ["undefended", "sift"]
    rows = pq.read_table(finished_run / "rounds.parquet").to_pylist()
    for arm, entry in zip(run.arms, results["arms"], strict=True):
        assert arm.figures["test_accuracy"] == entry["accuracy"]["test"]["value"]
        assert arm.figures["macs"] == entry["edge"]["macs"]
        assert arm.facts["defence"] == entry["defence"]
        (row,) = [row for row in rows if row["arm"] == arm.name]
        curves = {point.name: (point.step, point.value) for point in arm.curves}
        for name in ("training_loss", "validation_accuracy", "uplink_bytes"):
            assert curves[f"training/{name}"] == (1, row[name])
        assert arm.options["fleet.mix.0.device"] == "raspberry-pi-4"
        assert arm.options["adversaries.eaves.attack.name"] == "ridge"
        assert set(arm.pictures) == {
            f"{adversary}/{what}"
            for adversary in ("eaves", "cloud")
            for what in ("original", "ridge", "mean_image", "class_mean_image")
        }
        assert all(
            p.dtype == np.uint8 and p.shape[1:] == (height, width, channels)
            for p in arm.pictures.values()
        )
    assert run.arms[1].options["arm.defence.name"] == "siftfunnel"


def test_bad_input_is_one_sentence(finished_run, tmp_path, capsys):
    interrupted = shutil.copytree(finished_run, tmp_path / "cut")
    tree = json.loads((interrupted / "results.json").read_text())
    (interrupted / "results.json").write_text(json.dumps({**tree, "status": "interrupted"}))
    for arguments, words in (
        ([str(finished_run)], ["--tensorboard", "--mlflow"]),
        ([str(tmp_path / "no"), "--tensorboard", "x"], ["no such results folder"]),
        ([str(interrupted), "--tensorboard", "x"], ["interrupted", "--resume"]),
    ):
        assert main(arguments) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert all(word in line for word in words), line


@pytest.mark.parametrize(
    ("option", "packages", "command"),
    [
        ("--tensorboard", ["tensorboardX", "torch.utils.tensorboard"], "pip install tensorboard"),
        ("--mlflow", ["mlflow"], "pip install mlflow"),
    ],
)
def test_a_missing_package_is_one_sentence_with_the_command(
    finished_run, tmp_path, capsys, monkeypatch, option, packages, command
):
    for package in packages:
        monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    assert main([str(finished_run), option, str(tmp_path / "logs")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"error: {option}: ")
    assert line.endswith(command)
    assert not (tmp_path / "logs").exists()


@pytest.mark.skipif(
    not any(map(importlib.util.find_spec, ("tensorboard", "tensorboardX"))),
    reason="neither tensorboard nor tensorboardX is installed",
)
def test_tensorboard_logs_hold_the_curves(finished_run, tmp_path, capsys):
    assert main([str(finished_run), "--tensorboard", str(tmp_path)]) == 0
    logs = capsys.readouterr().out.split()
    assert logs == [str(tmp_path / "run" / arm) for arm in ("undefended", "sift")]
    for log in logs:
        (events,) = (tmp_path / log).glob("events.out.tfevents.*")
        written = events.read_bytes()
        for tag in (b"training/training_loss", b"result/test_accuracy", b"reconstructions/cloud"):
            assert tag in written
    assert main([str(finished_run), "--tensorboard", str(tmp_path)]) == 2
    assert "exists already" in capsys.readouterr().err


def test_mlflow_holds_params_metrics_and_the_report(finished_run, tmp_path, capsys):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    uri = f"sqlite:///{tmp_path / 'store.db'}"
    assert main([str(finished_run), "--mlflow", uri]) == 0
    identifier = capsys.readouterr().out.splitlines()[1].split()[-1]
    client = mlflow.MlflowClient(tracking_uri=uri)
    logged = client.get_run(identifier)
    sift = read_run(finished_run).arms[1]
    assert logged.data.params["arm.defence.name"] == "siftfunnel"
    assert logged.data.metrics["result/test_accuracy"] == sift.figures["test_accuracy"]
    assert {item.path for item in client.list_artifacts(identifier)} >= {"report.html"}
    assert main([str(finished_run), "--mlflow", "nonsense://nowhere"]) == 2
    assert "error: --mlflow nonsense://nowhere: " in capsys.readouterr().err
