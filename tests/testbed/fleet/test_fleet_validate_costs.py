"""The check against published latencies: pairing, fitting, judging, wrong files."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from testbed.cli.cost_errors import judge
from testbed.fleet.calibration.fit_latency import cross_validate, fit_families, form_ms
from testbed.fleet.calibration.latency_form import FAMILIES, LatencyFamily, NetworkCosts, form_units
from testbed.fleet.calibration.published import Measurement, latency_family, pair
from testbed.fleet.calibration.residuals import Residuals, fit_residuals, load_residuals
from testbed.fleet.table import read_table
from testbed.validate_costs import main

NETWORKS = {  # macs, 3x3 macs, params, activations in millions
    "mobilenet_v2": (313.6, 0.0, 3.5, 15.0),
    "resnet18": (1826.9, 1502.9, 11.7, 9.9),
    "squeezenet": (418.5, 205.9, 1.2, 9.8),
    "vgg16": (15470.3, 15346.6, 138.4, 30.3),
    "shufflenet": (127.1, 0.0, 1.8, 15.6),
    "alexnet": (724.4, 149.5, 61.0, 2.7),
}
TRUTH = LatencyFamily(0.5, 0.4, 10.0, 2.0)


def rows(devices: int = 12, noise: float = 0.0) -> list[dict[str, str]]:
    """Make measurements that follow the form exactly, up to lognormal noise."""
    rng = np.random.default_rng(0)
    made = []
    for device in range(devices):
        rate = 1e-7 * (1.0 + device)
        for network, costs in NETWORKS.items():
            macs, macs3, params, activations = (cost * 1e6 for cost in costs)
            units = form_units(TRUTH, NetworkCosts(macs, macs3, params, activations))
            latency_ms = (TRUTH.fixed_ms + rate * units) * np.exp(noise * rng.standard_normal())
            made.append(
                {
                    "name": f"board {device}",
                    "class": "sbc",
                    "network_name": network,
                    "threads": "4",
                    "precision": "float: whatever",
                    "backend": "ncnn-cpu",
                    "latency_ms": str(latency_ms),
                    "macs_m": str(costs[0]),
                    "macs_conv3x3s1_m": str(costs[1]),
                    "params_m": str(costs[2]),
                    "act_elems_m": str(costs[3]),
                    "role": "calibrate" if network == "mobilenet_v2" else "validate",
                    "note": "",
                }
            )
    return made


def write(path: Path, made: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [*Measurement.columns(), "source"])
        writer.writeheader()
        writer.writerows({**row, "source": "made up"} for row in made)
    return path


def test_the_form_recovers_latencies_that_follow_it(tmp_path: Path) -> None:
    pairs, unpredicted = pair(read_table(write(tmp_path / "m.csv", rows()), Measurement))
    assert (len(pairs), unpredicted) == (60, 0)
    assert np.allclose(form_ms(pairs, FAMILIES | {"cpu": TRUTH}), pairs.latency_ms, rtol=1e-6)


def test_the_fit_finds_the_constants(tmp_path: Path) -> None:
    pairs, _ = pair(read_table(write(tmp_path / "m.csv", rows(noise=0.02)), Measurement))
    fitted = fit_families(pairs)["cpu"]
    assert fitted.conv3x3_factor == pytest.approx(0.4, rel=0.1)
    assert fitted.macs_per_activation == pytest.approx(10.0, rel=0.2)
    assert fitted.macs_per_param == pytest.approx(2.0, rel=0.3)


def test_residuals_learn_what_a_network_always_does(tmp_path: Path) -> None:
    made = rows(devices=30)
    for row in made:
        if row["network_name"] == "alexnet":
            row["latency_ms"] = str(1.4 * float(row["latency_ms"]))
    pairs, _ = pair(read_table(write(tmp_path / "m.csv", made), Measurement))
    plain = form_ms(pairs, FAMILIES | {"cpu": TRUTH})
    residuals = fit_residuals(pairs, plain)
    corrected = plain * np.exp(residuals.log_correction(pairs))
    odd = pairs.network == "alexnet"
    assert np.abs(plain[odd] / pairs.latency_ms[odd] - 1.0).min() > 0.25
    assert np.abs(corrected / pairs.latency_ms - 1.0).max() < 0.05
    residuals.write(tmp_path / "r.csv")
    again = load_residuals(tmp_path / "r.csv").log_correction(pairs)
    assert np.allclose(again, residuals.log_correction(pairs), atol=1e-3)
    assert not Residuals().log_correction(pairs).any()


def test_cross_validation_never_sees_the_device(tmp_path: Path) -> None:
    """A device's own measurements must not change what is predicted for it."""
    made = rows(devices=12, noise=0.1)
    pairs, _ = pair(read_table(write(tmp_path / "m.csv", made), Measurement))
    first = cross_validate(pairs, 12)[1]
    for row in made:
        if row["name"] == "board 3" and row["role"] == "validate":
            row["latency_ms"] = str(5.0 * float(row["latency_ms"]))
    changed, _ = pair(read_table(write(tmp_path / "n.csv", made), Measurement))
    second = cross_validate(changed, 12)[1]
    own = pairs.device == "board 3"
    assert np.array_equal(first[own], second[own])
    assert not np.array_equal(first[~own], second[~own])


def test_judging_by_hand() -> None:
    errors = judge(np.array([110.0, 50.0, 160.0, 100.0]), np.full(4, 100.0))
    assert errors.median_abs_pct_error == 30.0
    assert errors.p90_abs_pct_error == 57.0
    assert errors.share_within_1_5x == 0.5


@pytest.mark.parametrize(
    ("device_class", "backend", "precision", "family"),
    [
        ("sbc", "ncnn-cpu", "float: fp16", "cpu"),
        ("sbc", "ncnn-cpu", "int8", "cpu-int8"),
        ("sbc", "XNNPACK", "int8", "cpu-gemm"),
        ("phone", "TFLite GPU delegate", "fp32", "gpu"),
        ("edge-gpu-board", "ncnn-vulkan", "int8", "gpu-int8"),
        ("edge-gpu-board", "tf", "fp32", "gpu"),
        ("phone-npu", "tflite on NPU", "w8a8", "npu"),
        ("edge-tpu-board", "Edge TPU", "int8", "npu"),
        ("mcu", "MLPerf Tiny v1.2 closed", "int8", "mcu"),
        ("mcu-npu", "MLPerf Tiny v1.0 closed", "int8", "mcu"),
    ],
)
def test_families(device_class: str, backend: str, precision: str, family: str) -> None:
    assert latency_family(device_class, backend, precision) == family


def test_the_nearest_calibration_is_taken(tmp_path: Path) -> None:
    base = rows(devices=1)
    known = base[0]
    one = known | {"threads": "1", "latency_ms": "100"}
    two = known | {"threads": "2", "latency_ms": "60"}
    wanted = base[1] | {"threads": "1"}
    elsewhere = base[2] | {"backend": "TNN CPU"}
    made = [one, two, wanted, base[2] | {"threads": "8"}, elsewhere]
    pairs, unpredicted = pair(read_table(write(tmp_path / "m.csv", made), Measurement))
    assert unpredicted == 1
    assert pairs.exact.tolist() == [True, False]
    assert pairs.known_ms[0] == 100.0
    assert pairs.known_ms[1] == pytest.approx(60.0 / 2.34)  # from two to eight threads


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "m.csv", rows(devices=18))
    assert main([str(path), "--json", "--cross-validate", "--folds", "3"]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert [group["family"] for group in report["groups"]] == ["CPU", "overall"]
    assert report["groups"][0]["predictions"] == 90
    assert report["cross_validation"][0]["form_only"]["median_abs_pct_error"] < 2.0
    assert main([str(path), "--cross-validate"]) == 0
    assert "never seen" in capsys.readouterr().out


def test_wrong_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = rows(devices=1)
    made[2]["latency_ms"] = "fast"
    for path, says in (
        (tmp_path / "nowhere.csv", "cannot read"),
        (write(tmp_path / "m.csv", made), "row 4, column 'latency_ms': must be a number above 0"),
        (write(tmp_path / "n.csv", made[:1]), "no row of role 'validate'"),
    ):
        assert main([str(path)]) == 2
        assert says in capsys.readouterr().err
    assert main([str(tmp_path / "n.csv"), "--folds", "1"]) == 2
