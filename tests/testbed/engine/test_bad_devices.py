"""Devices that crash, send nonsense or too much: each fails alone, is counted, and is named."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from faults.devices import BAD_DEVICES, spoil

from testbed.core.loading import validate_scenario
from testbed.engine.experiment import Experiment
from testbed.engine.progress import Progress


def run(tree, folder):
    Experiment(validate_scenario(tree, "test"), folder, Progress()).run()
    return json.loads((folder / "results.json").read_text()), folder


@pytest.fixture
def fleet(tiny):
    """Eight devices that all train in every round, and are always there."""
    tiny["fleet"] |= {"mix": tiny["fleet"]["mix"][:1], "availability": "always"}
    tiny["training"] |= {"cohort_size": 8, "rounds": 2}
    tiny["arms"] = tiny["arms"][:1]
    return tiny


def test_bad_devices_fail_alone(fleet, tmp_path, monkeypatch):
    spoil(monkeypatch.setattr)
    results, folder = run(fleet, tmp_path / "spoilt")
    (arm,) = results["arms"]
    assert results["status"] == "complete"
    assert all(check["passed"] for check in results["self_checks"])
    in_training = [kind for kind in BAD_DEVICES if kind.spoils_training]
    assert arm["training"]["failed"] == 2 * len(in_training)  # once a round
    assert arm["training"]["participations"] == 2 * (8 - 4)  # the NaN came with the last reply
    assert all(np.isfinite(arm["accuracy"]["test"][key]) for key in ("value", "low", "high"))
    served = arm["serving"]
    silent = [kind.device for kind in BAD_DEVICES if kind.spoils_serving]
    rows = pq.read_table(folder / "requests.parquet").to_pylist()
    assert served["failed"] == sum(row["device"] in silent for row in rows) > 0
    assert all(row["status"] == "failed" for row in rows if row["device"] in silent)
    page = (folder / "report.html").read_text()
    for kind in BAD_DEVICES:
        if kind.said:
            assert any(f"device {kind.device}: " in e and kind.said in e for e in arm["errors"])
            assert f"device {kind.device}: " in page
