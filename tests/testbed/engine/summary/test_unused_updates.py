"""Rounds with too few updates for the strategy are counted and warned about."""

import pyarrow.parquet as pq
import pytest
from whole_runs import results_of, run

from testbed.core.errors import UserError
from testbed.engine.setting.run_context import read_run_inputs
from testbed.report.summary import print_summary
from testbed.scenario.loading import validate_scenario


@pytest.fixture
def bulyan(tiny):
    """Return a scenario whose rounds have between no and four updates, where Bulyan needs three."""
    tiny["training"] |= {"strategy": "bulyan", "rounds": 8, "local_steps": 1}
    tiny["fleet"]["availability"] = {"name": "bernoulli", "probability": 0.6}
    tiny["arms"], tiny["adversaries"] = [tiny["arms"][0]], [tiny["adversaries"][1]]
    return tiny


def test_rounds_with_too_few_updates_count_and_are_warned_about(bulyan, tmp_path, capsys):
    run(bulyan, tmp_path / "run")
    rounds = pq.read_table(tmp_path / "run" / "rounds.parquet").to_pylist()
    unused = [row["unused"] for row in rounds]
    assert 0 < sum(count > 0 for count in unused) < 8
    assert max(unused) < 3
    assert all(row["participants"] in (0, 3, 4) for row in rounds)
    assert all(row["participants"] == 0 for row in rounds if row["unused"])
    summary = results_of(tmp_path / "run")
    assert summary["arms"][0]["training"]["unused"] == sum(unused)
    affected = sum(count > 0 for count in unused)
    (warning,) = [text for text in summary["warnings"] if "bulyan" in text]
    assert warning.startswith(f"arm undefended: in {affected} of 8 rounds fewer than 3 devices")
    assert f"{sum(unused)} updates were not used" in warning
    report = (tmp_path / "run" / "report.html").read_text()
    assert f"in {affected} of 8 rounds" in report
    assert "too few for the strategy" in report
    capsys.readouterr()
    print_summary(tmp_path / "run")
    assert "warning: arm undefended" in capsys.readouterr().out


def test_a_cohort_that_is_never_large_enough_is_refused(bulyan):
    bulyan["training"]["cohort_size"] = 2
    with pytest.raises(UserError, match=r"training.cohort_size: 'bulyan' .* needs 3 .* at most 2"):
        read_run_inputs(validate_scenario(bulyan, "test"))


def test_a_provider_alone_needs_no_cohort(bulyan):
    bulyan["training"] |= {"cohort_size": 2, "protocol": "provider"}
    read_run_inputs(validate_scenario(bulyan, "test"))
