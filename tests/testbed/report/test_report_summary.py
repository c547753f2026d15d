"""The terminal summary fits one screen and shows the key figures; the format of numbers."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from testbed.privacy.intervals import Interval
from testbed.report.__main__ import main
from testbed.report.summary import print_summary
from testbed.results import formats as numbers

Edit = Callable[[Callable[[dict[str, Any]], None]], None]


def _printed(folder: Path) -> list[str]:
    target = io.StringIO()
    print_summary(folder, Console(file=target, width=100, height=40, color_system=None))
    return target.getvalue().splitlines()


def test_fits_one_screen_and_shows_the_essentials(folder: Path) -> None:
    lines = _printed(folder)
    assert len(lines) <= 40
    assert all(len(line) <= 100 for line in lines)
    text = "\n".join(lines)
    for expected in (
        "96.8\u202f%",
        "0.0312",
        "mean image, same victims",
        "2.49\u202fM  8.0× less",  # noqa: RUF001
        "train undefended",
        "82.4\u202fs",
        "21 / 13 / 0",
        "2 self-checks passed",
        str(folder),
    ):
        assert expected in text


def test_fits_with_many_arms_and_phases(folder: Path, edit: Edit) -> None:
    import json

    def multiply(tree: dict[str, Any]) -> None:
        tree["arms"] = [{**tree["arms"][1], "name": f"defence-number-{n}"} for n in range(9)]
        tree["self_checks"][0]["passed"] = False

    edit(multiply)
    host = json.loads((folder / "host.json").read_text())
    host["phases"] = [{"name": f"phase {n}", "wall_s": float(n)} for n in range(40)]
    (folder / "host.json").write_text(json.dumps(host))
    lines = _printed(folder)
    assert len(lines) <= 40
    assert "and 5 more arms in the report" in "\n".join(lines)
    assert "self-check FAILED: splits are disjoint" in "\n".join(lines)
    assert "other" in "\n".join(lines)


def test_warnings_are_above_the_figures(folder: Path, edit: Edit) -> None:
    edit(lambda tree: tree.update(warnings=["2 of 60 rows have no class"]))
    assert _printed(folder)[1] == "warning: 2 of 60 rows have no class"


def test_interrupted_and_empty(folder: Path, edit: Edit) -> None:
    edit(lambda tree: tree.update(status="interrupted", arms=[], self_checks=[]))
    (folder / "host.json").unlink()
    text = "\n".join(_printed(folder))
    assert "Interrupted" in text
    assert "No arm was evaluated." in text


def test_markup_in_texts_is_not_interpreted(folder: Path, edit: Edit) -> None:
    edit(lambda tree: tree["data"].update(name="[bold]odd[/bold]"))
    assert "[bold]odd[/bold]" in "\n".join(_printed(folder))


@pytest.mark.usefixtures("without_figures")
def test_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder), "--quiet"]) == 0
    assert capsys.readouterr().out == f"{folder / 'report.html'}\n"
    assert main([str(folder)]) == 0
    assert "fixture-100" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.006104, "0.00610"),
        (0.9996, "1.00"),
        (9.996, "10.0"),
        (99.96, "100"),
        (12345.6, "12,300"),
        (-0.0312, "\u22120.0312"),
        (None, "–"),  # noqa: RUF001
    ],
)
def test_three_significant_figures(value: float | None, text: str) -> None:
    assert numbers.significant(value) == text


@given(st.floats(min_value=1e-9, max_value=1e12))
def test_significant_is_within_half_a_unit_of_the_third_figure(value: float) -> None:
    text = numbers.significant(value)
    assert abs(float(text.replace(",", "")) - value) <= 0.00501 * value
    assert "e" not in text


def test_units() -> None:
    assert numbers.scaled(19_922_944) == "19.9\u202fM"
    assert numbers.scaled(3072, "B") == "3.07\u202fkB"
    assert numbers.scaled(212, "B") == "212\u202fB"
    assert numbers.scaled(999_900) == "1.00\u202fM"
    assert numbers.scaled(0, "B") == "0\u202fB"
    assert numbers.milliseconds(2471) == "2,470\u202fms"
    assert numbers.milliseconds(24_710) == "24.7\u202fs"
    assert numbers.millijoules(0.0042) == "4.20\u202fµJ"
    assert numbers.millijoules(4200) == "4.20\u202fJ"
    assert numbers.millijoules(None) == "unknown"
    assert numbers.duration(480.5) == "8.01\u202fmin"
    assert numbers.percent(0.0123) == "1.2\u202f%"
    share = Interval(value=0.5, low=0.4, high=0.6)
    assert numbers.bounds(share, numbers.percent) == "40.0 to 60.0"
    assert numbers.bounds(share) == "0.400 to 0.600"
    assert numbers.bounds(None) == ""


def test_ratios_in_words() -> None:
    assert numbers.times(1.0, 8.0) == "8.0× less"  # noqa: RUF001
    assert numbers.times(8.0, 1.0) == "8.0× more"  # noqa: RUF001
    assert numbers.times(8.0, 8.01) == "equal"
    assert numbers.times(None, 8.0) == ""
    assert numbers.times(0.0, 8.0) == ""
