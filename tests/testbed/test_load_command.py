"""``python -m testbed.load``: a scenario's fleet under load."""

import json
from pathlib import Path
from typing import Any

import pytest

from testbed.load import main

SCENARIO = Path(__file__).resolve().parents[2] / "scenarios" / "smoke.yaml"
Captured = pytest.CaptureFixture[str]


def loaded(capsys: Captured, *arguments: str) -> list[dict[str, Any]]:
    assert main([str(SCENARIO), "--json", *arguments]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def test_every_arm_is_put_under_load(capsys: Captured) -> None:
    arms = loaded(capsys, "--requests-per-s", "20", "--cloud-price-usd-per-hour", "1.5")
    assert arms
    for arm in arms:
        *groups, everybody = arm["classes"]
        assert sum(group["requests"] for group in groups) == everybody["requests"]
        assert everybody["p50_ms"] <= everybody["p95_ms"] <= everybody["p99_ms"]
        assert 0.0 < arm["cloud_utilisation"] < 1.0
        assert 0.0 < arm["cost_usd_per_1000"]["busy"] < arm["cost_usd_per_1000"]["provisioned"]
    again = loaded(capsys, "--requests-per-s", "20", "--cloud-price-usd-per-hour", "1.5")
    assert again == arms


def test_more_requests_wait_longer(capsys: Captured) -> None:
    means = [
        loaded(capsys, "--requests-per-s", rate)[0]["classes"][-1]["mean_ms"]
        for rate in ("1", "4000")
    ]
    assert means[1] > means[0]


def test_measured_cloud_and_batches(capsys: Captured) -> None:
    arguments = ("--requests-per-s", "2000", "--max-batch", "4", "--batch-window-ms", "50")
    arms = loaded(capsys, *arguments, "--cloud-service", "measured")
    assert all(1.0 < arm["mean_batch"] <= 4.0 for arm in arms)


def test_recorded_requests(capsys: Captured, tmp_path: Path) -> None:
    path = tmp_path / "requests.csv"
    path.write_text("device,arrival_s\n0,1\n1,2\n0,3\n")
    assert sum(loaded(capsys, "--requests", str(path))[0]["mean_parts_ms"].values()) > 0.0
    assert main([str(SCENARIO), "--requests", str(path)]) == 0
    assert "radio wake-up" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--requests-per-s", "-1"], "--requests-per-s: must be at least 0"),
        (["--requests-per-s", "nan"], "--requests-per-s: must be at least 0"),
        (["--max-batch", "0"], "serving.max_batch: input should be greater than or equal to 1"),
        (["--batch-window-ms", "-1"], "serving.batch_window_ms: input should be"),
        (["--batch-window-ms", "5"], "batch_window_ms needs a max_batch above 1"),
        (["--cloud-price-usd-per-hour", "-2"], "serving.cloud_price_usd_per_hour"),
        (["--cloud-service", "guessed"], "serving.cloud_service: input should be"),
        (["--requests", "nowhere.csv"], "nowhere.csv: cannot read"),
        (["--set", "fleet.sise=3"], "did you mean 'size'?"),
    ],
)
def test_wrong_arguments(capsys: Captured, arguments: list[str], says: str) -> None:
    assert main([str(SCENARIO), *arguments]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert len(error.splitlines()) == 1
