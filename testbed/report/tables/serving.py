"""The table of what serving cost, by device class."""

from testbed.pages.cells import Cell, Row, Table, group, number
from testbed.results import formats as numbers
from testbed.results.reading import Results
from testbed.results.schema import ArmOnClass, Serving


def serving_table(results: Results) -> Table | None:
    """Return latency, misses, energy and the cloud's part by arm and device class."""
    rows: list[Row] = []
    headings = [
        "device class",
        "answered",
        "not answered",
        "median",
        "p95",
        "p99",
        "past the deadline",
        "energy per request",
        "of it radio awake",
        "cloud busy",
        "mean batch",
        "cost of 1,000",
        "with idle time",
    ]
    for arm in results.arms:
        if arm.serving is None or not arm.by_device_class:
            continue
        rows.append(group(arm.name, len(headings) - 1))
        rows += [_served_row(entry.device_class, entry) for entry in arm.by_device_class]
        rows.append(_served_row("all", arm.serving, "best"))
    return Table(headings, rows) if rows else None


def _served_row(label: str, part: ArmOnClass | Serving, kind: str = "") -> Row:
    latency = part.latency_ms
    times = [getattr(latency, name, None) for name in ("median", "p95", "p99")]
    cost = part.cost_usd_per_1000
    return Row(
        label,
        [
            number(part.answered, numbers.count),
            number(part.unanswered, numbers.count),
            *(number(value, numbers.milliseconds) for value in times),
            number(part.deadline_miss_share, numbers.percent),
            _energy(part),
            number(_radio_mj(part), lambda value: numbers.millijoules(value, numbers.ABSENT)),
            number(part.cloud_utilisation, _busy),
            number(part.mean_batch, lambda value: numbers.significant(value, 2)),
            number(cost.busy, numbers.dollars),
            number(cost.provisioned, numbers.dollars),
        ],
        kind=kind,
    )


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
