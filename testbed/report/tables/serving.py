"""The table of what serving cost, by device class."""

from testbed.pages.cells import Cell, Row, Table, group, number, part_cells
from testbed.results import formats as numbers
from testbed.results.figures import Figure
from testbed.results.reading import Results
from testbed.results.schema import ArmOnClass, Serving


def serving_table(results: Results) -> Table | None:
    """Return latency, misses, energy and the cloud's part by arm and device class."""
    headings = [figure.label for figure in REQUESTS]
    headings += ["energy per request", "of it radio awake", *(figure.label for figure in CLOUD)]
    rows: list[Row] = []
    for arm in results.arms:
        rows.append(group(arm.name, len(headings)))
        rows += [_served_row(entry.device_class, entry) for entry in arm.by_device_class]
        rows.append(_served_row("all", arm.serving, "best"))
    return Table(["device class", *headings], rows) if rows else None


def _served_row(label: str, part: ArmOnClass | Serving, kind: str = "") -> Row:
    radio = number(_radio_mj(part), lambda value: numbers.millijoules(value, numbers.ABSENT))
    cells = [*part_cells(part, REQUESTS), _energy(part), radio, *part_cells(part, CLOUD)]
    return Row(label, cells, kind=kind)


def _busy(value: float | None) -> str:
    """Return a utilisation; small ones with two figures."""
    if value is None or value == 0.0 or value >= 0.001:
        return numbers.percent(value)
    return f"{numbers.significant(100 * value, 2)}{numbers.THIN}%"


def _energy(part: ArmOnClass | Serving) -> Cell:
    unknown = part.energy_unknown_devices
    some = unknown and part.energy_mj_per_request is not None
    return number(
        part.energy_mj_per_request,
        lambda value: numbers.millijoules(value) if part.answered else numbers.ABSENT,
        f"{unknown} unknown" if some else "",
    )


def _radio_mj(part: ArmOnClass | Serving) -> float | None:
    """Return the radio's part of the energy; alone where the whole is unknown."""
    if part.energy_mj_per_request is None or part.work_mj_per_request is None:
        return part.wake_tail_mj_per_request
    return max(0.0, part.energy_mj_per_request - part.work_mj_per_request)


REQUESTS = (
    Figure("answered", "answered", numbers.count),
    Figure("unanswered", "not answered", numbers.count),
    Figure("latency_ms.median", "median", numbers.milliseconds),
    Figure("latency_ms.p95", "p95", numbers.milliseconds),
    Figure("latency_ms.p99", "p99", numbers.milliseconds),
    Figure("deadline_miss_share", "past the deadline", numbers.percent),
)
CLOUD = (
    Figure("cloud_utilisation", "cloud busy", _busy),
    Figure("mean_batch", "mean batch", numbers.two_figures),
    Figure("cost_usd_per_1000.busy", "cost of 1,000", numbers.dollars),
    Figure("cost_usd_per_1000.provisioned", "with idle time", numbers.dollars),
)
