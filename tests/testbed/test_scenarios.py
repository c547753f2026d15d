"""Every scenario of the project is valid, and its fleet can be drawn."""

from pathlib import Path

import pytest

from testbed.engine.setting.run_context import read_fleet
from testbed.scenario.loading import dump_scenario, load_scenario, parse_yaml, validate_scenario

SCENARIOS = sorted((Path(__file__).resolve().parents[2] / "scenarios").glob("*.yaml"))


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenarios_load_and_resolve_to_themselves(path):
    scenario = load_scenario(path)
    assert scenario.name == path.stem
    assert (
        validate_scenario(parse_yaml(dump_scenario(scenario), "resolved"), "resolved") == scenario
    )
    fleet, _ = read_fleet(scenario)
    assert len(fleet) == scenario.fleet.size
