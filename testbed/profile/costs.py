"""Costs of every variant on every device: memory, time, energy, break-even uplink rates."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from testbed.fleet.catalogue import CatalogueDevice
from testbed.fleet.cost_model import (
    BYTES_PER_ELEMENT,
    compute_energy_mj,
    inference_ms,
    serving_feasibility,
)
from testbed.fleet.links import LinkProfile, radio_energy_mj, transfer_ms
from testbed.profile.variants import Variant

ANSWER_BYTES = 4
"""The answered class, as a 32-bit integer."""

SecondEstimate = Callable[[CatalogueDevice, Variant], float | None]


@dataclass(frozen=True)
class Crossing:
    """The uplink rates at which one variant is faster than another.

    Attributes
    ----------
    when : ``always``, ``never``, ``below`` or ``above`` the rate.
    mbit_s : the break-even rate, None for ``always`` and ``never``.
    """

    when: str
    mbit_s: float | None = None


@dataclass(frozen=True)
class DeviceCost:
    """One variant on one device over one link; None: unpublished or not applicable.

    Attributes
    ----------
    compute_ms, second_ms : device time by the cost model, and scaled from this host's.
    disagreement : second over first.
    compute_mj, radio_mj, total_mj : energy that a request adds on the device.
    faster_than_raw, faster_than_whole : uplink rates at which splitting beats sending the raw
        image, and running the whole classifier on the device.
    """

    device: str
    device_class: str
    variant: str
    kind: str
    defences: str
    macs: int
    params: int
    weight_bytes: int
    peak_activation_bytes: int
    needed_bytes: int
    budget_bytes: int | None
    feasible: bool
    uplink_bytes: int
    compute_ms: float
    second_ms: float | None
    disagreement: float | None
    uplink_ms: float
    cloud_ms: float
    downlink_ms: float
    total_ms: float
    compute_mj: float | None
    radio_mj: float | None
    total_mj: float | None
    faster_than_raw: Crossing | None = None
    faster_than_whole: Crossing | None = None

    def flat(self) -> dict[str, Any]:
        """Return the columns of a table; a crossing takes two."""
        row: dict[str, Any] = asdict(self)
        for name in ("faster_than_raw", "faster_than_whole"):
            crossing = row.pop(name)
            row[name] = crossing["when"] if crossing else None
            row[f"{name}_mbit_s"] = crossing["mbit_s"] if crossing else None
        return row


def crossing(fixed_ms: float, more_bytes: int) -> Crossing:
    """Return the uplink rates r for which ``fixed_ms + 8 more_bytes / r`` is negative.

    Parameters
    ----------
    fixed_ms : extra time of the first variant over the second, without the uplink.
    more_bytes : extra bytes of the first variant.
    """
    kbit = 8.0 * more_bytes / 1000.0  # kbit / (Mbit/s) = ms
    if fixed_ms < 0.0 and kbit <= 0.0:
        return Crossing("always")
    if fixed_ms >= 0.0 and kbit >= 0.0:
        return Crossing("never")
    if fixed_ms == 0.0:
        return Crossing("always")
    return Crossing("below" if kbit < 0.0 else "above", -kbit / fixed_ms)


def device_costs(
    variants: list[Variant],
    devices: list[CatalogueDevice],
    link: LinkProfile,
    cloud: CatalogueDevice,
    second_estimate: SecondEstimate | None = None,
) -> list[DeviceCost]:
    """Return the costs of every variant on every device, over the link's median rates."""
    costs: list[DeviceCost] = []
    for device in devices:
        of_device = []
        for variant in variants:
            second = second_estimate(device, variant) if second_estimate else None
            of_device.append(_cost(variant, device, link, cloud, second))
        alternatives = {cost.kind: cost for cost in of_device}
        raw, whole = alternatives.get("raw"), alternatives.get("whole")
        costs += [
            replace(
                cost,
                faster_than_raw=_faster(cost, raw),
                faster_than_whole=_faster(cost, whole, cost.downlink_ms + link.rtt_ms / 2),
            )
            for cost in of_device
        ]
    return costs


def _cost(
    variant: Variant,
    device: CatalogueDevice,
    link: LinkProfile,
    cloud: CatalogueDevice,
    second_ms: float | None,
) -> DeviceCost:
    edge, sent = variant.edge, variant.uplink_bytes
    answer_bytes = ANSWER_BYTES if sent else 0
    compute_ms = inference_ms(device, edge) if edge else 0.0
    uplink_ms = transfer_ms(sent, link.uplink_mbit_s, link.rtt_ms)
    cloud_ms = inference_ms(cloud, variant.cloud) if variant.cloud else 0.0
    downlink_ms = transfer_ms(answer_bytes, link.downlink_mbit_s, link.rtt_ms)
    computing = compute_energy_mj(device, compute_ms)
    radio = radio_energy_mj(link, sent, answer_bytes, link.uplink_mbit_s, link.downlink_mbit_s)
    memory = serving_feasibility(device, edge) if edge else None
    width = BYTES_PER_ELEMENT[device.precision]
    return DeviceCost(
        device=device.name,
        device_class=device.device_class,
        variant=variant.name,
        kind=variant.kind,
        defences=", ".join(variant.defences),
        macs=edge.macs if edge else 0,
        params=edge.params if edge else 0,
        weight_bytes=edge.params * width if edge else 0,
        peak_activation_bytes=edge.peak_activation_elements * width if edge else 0,
        needed_bytes=memory.needed_bytes if memory else sent,
        budget_bytes=memory.budget_bytes if memory else None,
        feasible=memory.fits if memory else True,
        uplink_bytes=sent,
        compute_ms=compute_ms,
        second_ms=second_ms,
        disagreement=second_ms / compute_ms if second_ms is not None and compute_ms else None,
        uplink_ms=uplink_ms,
        cloud_ms=cloud_ms,
        downlink_ms=downlink_ms,
        total_ms=compute_ms + uplink_ms + cloud_ms + downlink_ms,
        compute_mj=computing,
        radio_mj=radio,
        total_mj=None if computing is None or radio is None else computing + radio,
    )


def _faster(cost: DeviceCost, other: DeviceCost | None, network_ms: float = 0.0) -> Crossing | None:
    """Compare a split with an alternative; only the split waits ``network_ms``."""
    if cost.kind != "split" or other is None:
        return None
    fixed_ms = cost.compute_ms + cost.cloud_ms + network_ms - other.compute_ms - other.cloud_ms
    return crossing(fixed_ms, cost.uplink_bytes - other.uplink_bytes)
