"""The tables of what serving cost: by device class, and both estimates of the device's time."""

from testbed.pages.cells import Cell, Row, Table, group, number
from testbed.results import formats as numbers
from testbed.results.host_facts import SecondEstimate
from testbed.results.reading import Results
from testbed.results.schema import ArmOnClass, Serving

LARGE_DISAGREEMENT = 1.5
"""From this ratio on, neither estimate should be trusted; most errors of the model are smaller."""


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


def second_table(results: Results) -> Table | None:
    """Return both estimates of the front-ends' latency and their disagreement."""
    host = results.host
    if host is None or not host.second_estimates:
        return None
    headings = ["device class", "devices", "cost model", "scaled from this host", "second / first"]
    rows: list[Row] = []
    for arm in dict.fromkeys(entry.arm for entry in host.second_estimates):
        rows.append(group(arm, len(headings) - 1))
        rows += [_second_row(entry) for entry in host.second_estimates if entry.arm == arm]
    return Table(headings, rows)


def _second_row(entry: SecondEstimate) -> Row:
    ratio = entry.disagreement
    far = ratio is not None and not 1 / LARGE_DISAGREEMENT <= ratio <= LARGE_DISAGREEMENT
    unknown = f"{entry.unknown_devices} more without" if entry.unknown_devices else ""
    return Row(
        entry.device_class,
        [
            number(entry.devices, numbers.count, unknown),
            number(entry.model_ms, _two_figures),
            number(entry.second_ms, _two_figures),
            number(ratio, lambda value: numbers.significant(value, 2), "far apart" if far else ""),
        ],
    )


def _two_figures(value: float | None) -> str:
    text = numbers.significant(value, 2)
    return text if value is None else f"{text}{numbers.THIN}ms"
