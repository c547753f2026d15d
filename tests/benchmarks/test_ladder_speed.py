"""Workload E: its shortened scenario, and the figures of a run."""

import json

import ladder_speed
import pytest

from testbed.scenario.loading import load_scenario


def test_the_shortened_ladder_keeps_every_adversary():
    whole = load_scenario(ladder_speed.SCENARIO)
    short = load_scenario(ladder_speed.SCENARIO, ladder_speed.shortened())
    assert [item.name for item in short.adversaries] == [item.name for item in whole.adversaries]
    assert tuple(arm.name for arm in short.arms) == ladder_speed.ARMS
    assert short.training.rounds < whole.training.rounds


def test_idle_cores_are_what_attacks_left_of_the_attack_phases(tmp_path, monkeypatch):
    monkeypatch.setattr(ladder_speed.os, "cpu_count", lambda: 4)
    host = {
        "phases": [
            {"name": "train one", "wall_s": 50.0},
            {"name": "attack one", "wall_s": 6.0},
            {"name": "attack two", "wall_s": 4.0},
        ],
        "attacks": [{"cpu_s": 7.0}, {"cpu_s": 3.0}],
    }
    (tmp_path / "host.json").write_text(json.dumps(host))
    found = ladder_speed.of_run(tmp_path, 70.0, 3_000_000_000)
    assert found["attack_s"] == 10.0
    assert found["idle_share"] == pytest.approx(0.75)
    line = ladder_speed.table([found, {**found, "peak_gb": 5.0}]).splitlines()[-1]
    assert line == "| peak GB of all processes | 4.00 | 3.00 to 5.00 |"
