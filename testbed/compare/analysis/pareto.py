"""Pareto fronts: the arms that no other arm beats in both of two measures."""

from dataclasses import dataclass
from math import nan

import numpy as np
from numpy.typing import NDArray

from testbed.compare.analysis.estimates import ArmEstimates
from testbed.compare.analysis.request_table import Estimate, Values
from testbed.results.figures import FIGURES, Figure


@dataclass(frozen=True)
class TradeOff:
    """Two figures of which one is usually bought with the other."""

    name: str
    x: Figure
    y: Figure

    def of(self, item: ArmEstimates) -> tuple[Estimate, Estimate]:
        """Return both figures of an arm."""
        return item[self.x.key], item[self.y.key]

    def point(self, item: ArmEstimates) -> tuple[float, float]:
        """Return the values of both figures, NaN where one is unknown."""
        x, y = (each.shown.value for each in self.of(item))
        return (nan if x is None else x, nan if y is None else y)


TRADE_OFFS = tuple(
    TradeOff(f"accuracy_{name}", FIGURES["accuracy"], FIGURES[key])
    for name, key in (
        ("mse", "mse"),
        ("ssim", "ssim"),
        ("macs", "macs"),
        ("bytes", "uplink_bytes"),
        ("latency", "latency_ms_median"),
    )
)


@dataclass(frozen=True)
class Front:
    """Which arms are on the front of a trade.

    Attributes
    ----------
    on_front : (arms,) whether the estimates are non-dominated.
    share : (arms,) in which share of the resamples they are; NaN where a measure is unknown.
    """

    trade_off: TradeOff
    on_front: NDArray[np.bool_]
    share: Values


def non_dominated(points: Values) -> NDArray[np.bool_]:
    """Say which points no other point dominates.

    One point dominates another that it equals or exceeds in every column and exceeds in one.
    Equal points do not dominate each other. Points with an unknown (NaN) column are on no front.

    Parameters
    ----------
    points : (..., n, k), higher is better in every column.

    Returns
    -------
    (..., n)
    """
    known: NDArray[np.bool_] = np.asarray(np.isfinite(points).all(axis=-1))
    filled = np.where(known[..., None], points, -np.inf)
    one, other = filled[..., :, None, :], filled[..., None, :, :]
    dominated = ((other >= one).all(axis=-1) & (other > one).any(axis=-1)).any(axis=-1)
    front: NDArray[np.bool_] = np.asarray(known & ~dominated)
    return front


def front_of(trade_off: TradeOff, measured: list[ArmEstimates]) -> Front:
    """Return the front of a trade, and how stable it is over the resamples."""
    sign = 1.0 if trade_off.y.better == "higher" else -1.0
    values = np.array([trade_off.point(item) for item in measured]) * [1.0, sign]
    samples = np.stack(
        [
            np.stack([x.samples, sign * y.samples], axis=-1)
            for x, y in (trade_off.of(item) for item in measured)
        ],
        axis=1,
    )
    known = np.isfinite(values).all(axis=-1)
    share = non_dominated(samples).mean(axis=0)
    return Front(trade_off, non_dominated(values), np.where(known, share, np.nan))
