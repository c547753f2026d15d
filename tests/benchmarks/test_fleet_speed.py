"""The speed benchmark: its tables, the order of its runs, and resuming."""

import fleet_speed
import pytest
from fleet_speed import contenders, flatness, main, table

RATES = {
    ("A", 100, "ours"): [150.0, 160.0, 140.0],
    ("A", 100, "limit"): [200.0, 200.0, 200.0],
    ("A", 10_000, "ours"): [125.0, 160.0, 120.0],
}


@pytest.fixture
def rows():
    return [
        {"workload": w, "devices": d, "contender": c, "repeat": repeat, "rounds": 3, "rate": rate}
        for (w, d, c), rates in RATES.items()
        for repeat, rate in enumerate(rates)
    ]


def test_multiples_are_medians_within_a_repeat(rows):
    lines = table(rows).splitlines()
    assert "| A | 100 | torch alone, 2 processes | 3 x 3 | 200 | 200 to 200 | 0.75 |" in lines
    assert "| A | 100 | this testbed | 3 x 3 | 150 | 140 to 160 |  |" in lines


def test_flatness_is_time_per_device_round_against_the_smallest_fleet(rows):
    assert flatness(rows).splitlines()[-1] == "| A | 1.17 |"


def test_peers_do_not_run_at_the_largest_size():
    assert list(contenders("A", 10_000, "python")) == ["ours", "limit"]
    assert list(contenders("A", 100, None)) == ["ours", "limit", "flower_simulation"]


@pytest.fixture
def runs(monkeypatch):
    """Replace the contenders; return the list of runs."""
    made = []

    def run_once(*turn):
        made.append(turn[:3])
        return 10.0

    monkeypatch.setattr(fleet_speed, "run_once", run_once)
    return made


def test_a_resumed_benchmark_runs_only_what_is_missing(tmp_path, runs, capsys):
    command = ["--devices", "100", "--workloads", "B", "--out", str(tmp_path), "--repeats"]
    assert main([*command, "1"]) == 0
    assert runs == [(name, "B", 100) for name in ("ours", "limit", "flower_simulation")]
    assert main([*command, "2", "--resume", "--rounds", "1"]) == 0
    assert len(runs) == 6
    assert "| B | 100 | this testbed | 2 x 1 to 3 | 10 |" in capsys.readouterr().out


def test_a_document_without_the_block_is_rejected_before_anything_runs(tmp_path, runs, capsys):
    document = tmp_path / "speed.md"
    document.write_text("nothing")
    assert main(["--out", str(tmp_path / "out"), "--document", str(document)]) == 2
    assert "fleet_speed.py: begin" in capsys.readouterr().err
    assert runs == []
    assert not (tmp_path / "out").exists()


@pytest.mark.processes
@pytest.mark.parametrize("workload", ["A", "B", "C"])
def test_the_engine_runs_every_workload(workload):
    assert fleet_speed.run_once("ours", workload, 4, 1, "") > 0.0
