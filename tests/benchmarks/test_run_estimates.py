"""The benchmark of the dry run's estimates, on a scenario of seconds."""

import copy

import yaml
from run_estimates import BLOCK, estimated_s, main
from small import TINY

from testbed.scenario.loading import load_scenario


def test_a_scenario_is_estimated_run_and_written_with_its_origin(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tree = copy.deepcopy(TINY) | {"name": "quick", "arms": TINY["arms"][:1]}
    scenario, page = tmp_path / "quick.yaml", tmp_path / "page.md"
    scenario.write_text(yaml.safe_dump(tree))
    assert main([str(scenario), "--out", str(tmp_path / "out"), "--document", str(page)]) == 0
    (row,) = [line for line in page.read_text().splitlines() if line.startswith("| `quick` |")]
    _, _, expected, taken, ratio, _ = row.split("|")
    assert float(expected) > 0.0
    assert float(taken) > 0.0
    assert float(ratio) > 0.0
    assert BLOCK.begin in page.read_text()
    assert "Origin: testbed " in page.read_text()
    assert estimated_s(load_scenario(scenario)) > 0.0


def test_a_run_that_fails_leaves_the_document(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(f"{BLOCK.begin}\nold\n{BLOCK.end}\n")
    tree = copy.deepcopy(TINY) | {"data": {"name": "parquet_folder", "path": str(tmp_path)}}
    scenario = tmp_path / "none.yaml"
    scenario.write_text(yaml.safe_dump(tree))
    assert main([str(scenario), "--document", str(page)]) == 2
    assert "error: " in capsys.readouterr().err
    assert "old" in page.read_text()
