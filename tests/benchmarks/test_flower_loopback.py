"""The benchmark on Flower's runtimes: its table, its document, and one runtime for real."""

import flower_runtime
import pytest
import torch
from flower_runtime import BLOCK, Timing, largest_difference, main, table


def test_the_table_has_a_line_per_runtime():
    timings = [Timing("FleetGrid", 1.26), Timing("one", 20.0, 0.0), Timing("other", 3.0, 0.125)]
    assert table(timings, 4).splitlines()[2:] == [
        "| FleetGrid | 2 | 4 | 1.3 |  |",
        "| one | 2 | 4 | 20.0 | 0 |",
        "| other | 2 | 4 | 3.0 | 0.125 |",
    ]


def test_the_largest_difference_is_over_all_weights():
    reference = {"a": torch.zeros(2), "b": torch.zeros(1), "only in a checkpoint": torch.ones(1)}
    assert largest_difference({"a": torch.zeros(2), "b": torch.zeros(1)}, reference) == 0.0
    weights = {"a": torch.tensor([0.0, -0.5]), "b": torch.tensor([0.25])}
    assert largest_difference(weights, reference) == 0.5
    with pytest.raises(KeyError):
        largest_difference({"new": torch.zeros(1)}, reference)


@pytest.fixture
def measured(monkeypatch):
    """Replace the measurement; return the difference of weights that it reports, then its calls."""
    calls = [0.0]

    def measure(kinds, rounds, folder):
        difference = calls[0]
        calls.append((kinds, rounds))
        return [Timing("FleetGrid", 1.0), *(Timing(kind, 2.0, difference) for kind in kinds)]

    monkeypatch.setattr(flower_runtime, "measure", measure)
    monkeypatch.setattr(flower_runtime.signal, "signal", lambda *_: None)
    return calls


def test_the_document_gets_the_table_and_a_difference_is_a_failure(tmp_path, measured, capsys):
    document = tmp_path / "page.md"
    document.write_text(f"before\n{BLOCK.begin}\nold\n{BLOCK.end}\nafter\n")
    assert main(["--document", str(document)]) == 0
    assert main(["--only", "deployment", "--rounds", "3"]) == 0
    assert measured[1:] == [(["simulation", "deployment"], 2), (["deployment"], 3)]
    assert document.read_text().splitlines()[0] == "before"
    assert "| simulation | 2 | 2 | 2.0 | 0 |" in document.read_text()
    measured[0] = 1e-9
    assert main(["--document", str(document)]) == 1
    assert "| simulation | 2 | 2 | 2.0 | 1e-09 |" in document.read_text()
    assert "| deployment | 2 | 3 | 2.0 | 0 |" in capsys.readouterr().out


def test_a_document_without_the_block_is_rejected_before_anything_runs(tmp_path, measured, capsys):
    document = tmp_path / "page.md"
    document.write_text("nothing")
    assert main(["--document", str(document)]) == 2
    assert "flower_runtime.py: begin" in capsys.readouterr().err
    assert len(measured) == 1


@pytest.mark.long
@pytest.mark.processes
def test_the_apps_train_the_same_weights_between_superlink_and_supernodes(tmp_path, capsys):
    document = tmp_path / "page.md"
    document.write_text(f"{BLOCK.begin}\n{BLOCK.end}\n")
    assert main(["--only", "deployment", "--rounds", "1", "--document", str(document)]) == 0
    lines = document.read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("| SuperLink")]
    assert line.startswith("| SuperLink and SuperNodes | 2 | 1 | ")
    assert line.endswith(" | 0 |")
