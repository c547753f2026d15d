"""Serving in the report: the cloud, its cost, and radios."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from html_reader import Page
from report_fixture import ARMS

from testbed.report.build import build_report
from testbed.report.tables.headline import headline_table
from testbed.results.reading import read_results

Edit = Callable[[Callable[[dict[str, Any]], None]], None]

PHONE = {
    "answered": 70,
    "unanswered": 4,
    "deadline_miss_share": 0.25,
    "energy_mj_per_request": 9000.0,
    "work_mj_per_request": 40.0,
    "wake_tail_mj_per_request": 8960.0,
    "energy_unknown_devices": 3,
    "cloud_utilisation": 0.00041,
    "mean_batch": 2.5,
    "cost_usd_per_1000": {"busy": 0.000091, "provisioned": 0.73},
}
CLOUD = {
    "device": "cloud-server",
    "servers": 2,
    "max_batch": 4,
    "batch_window_ms": 20.0,
    "service": "recorded",
    "service_ms": {"own": [2.2, 3.7, 5.0, 6.2]},
    "price_usd_per_hour": 0.68,
}


def served(tree: dict[str, Any]) -> None:
    for arm in tree["arms"]:
        arm["serving"] |= {**PHONE, "cloud": CLOUD}
        for entry in arm["by_device_class"]:
            if entry["device_class"] == "phone":
                entry |= PHONE
                entry["latency_ms"]["p99"] = 1234.0


@pytest.fixture
def page(folder: Path, edit: Edit, without_figures: None) -> Page:
    edit(served)
    return Page(build_report(folder).read_text(encoding="utf-8"))


def test_serving_by_class_has_the_numbers_of_the_results(page: Page) -> None:
    cells = [value for _, value in page.row("table-serving", "phone")]
    assert cells[:2] == [70, 4]
    assert cells[4:] == [1234.0, 0.25, 9000.0, 8960.0, 0.00041, 2.5, 0.000091, 0.73]
    texts = [text for text, _ in page.row("table-serving", "phone")]
    assert texts[-2:] == ["$0.000091", "$0.73"]
    assert texts[-4] == "0.041\u202f%"
    assert "all" in [row[0][0] for row in page.tables["table-serving"]]


def test_energy_without_the_radio_is_in_the_comparison(page: Page) -> None:
    row = page.row("table-headline", "the same without keeping radios awake")
    assert [value for _, value in row] == [40.0] * len(ARMS)
    row = page.row("table-headline", "busy cloud servers, per 1,000 images")
    assert [value for _, value in row] == [0.000091] * len(ARMS)


def test_the_cloud_is_described(page: Page) -> None:
    assert (
        "undefended: 2 servers (cloud-server), up to 4 requests at a time, waiting 20.0\u202fms "
        "for a batch; recorded service time: 2.2\u202fms for one, 6.2\u202fms for 4; "
        "$0.68 per server and hour"
    ) in page.text


def test_results_without_the_new_figures_are_still_shown(folder: Path) -> None:
    old = Page(build_report(folder).read_text(encoding="utf-8"))
    assert page_has_no_cost(old)


def page_has_no_cost(page: Page) -> bool:
    labels = [row[0][0] for row in page.tables["table-headline"]]
    return not any("cloud servers" in label for label in labels)


def test_energies_that_leave_out_other_devices_have_no_ratio(folder: Path, edit: Edit) -> None:
    """Both arms leave out eight devices of the fixture; then one of them leaves out one."""

    def known(tree: dict[str, Any]) -> None:
        for part in ("training", "serving"):
            tree["arms"][1][part]["energy_unknown_devices"] = 1

    same = headline_table(read_results(folder))
    edit(known)
    other = headline_table(read_results(folder))
    assert same is not None
    assert other is not None
    changed = 0
    for before, after in zip(same.rows, other.rows, strict=True):
        if before.cells and "less; unknown for 8 devices" in before.cells[1].note:
            assert after.cells[1].note == "unknown for 1 device"
            changed += 1
    assert changed >= 2
