"""Pareto fronts: the entries that no other entry beats in both of two measures."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from testbed.compare.analysis.estimates import ArmEstimates
from testbed.compare.analysis.request_table import Values

Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class TradeOff:
    """Two measures of which one is usually bought with the other."""

    name: str
    x: str
    y: str
    y_better: Better


TRADE_OFFS = (
    TradeOff("accuracy_mse", "accuracy", "mse", "higher"),
    TradeOff("accuracy_ssim", "accuracy", "ssim", "lower"),
    TradeOff("accuracy_macs", "accuracy", "macs", "lower"),
    TradeOff("accuracy_bytes", "accuracy", "uplink_bytes", "lower"),
    TradeOff("accuracy_latency", "accuracy", "latency_ms_median", "lower"),
)


@dataclass(frozen=True)
class Front:
    """Which entries are on the front of a trade.

    Attributes
    ----------
    on_front : (entries,) whether the estimates are non-dominated.
    share : (entries,) in which share of the resamples they are; NaN where a measure is unknown.
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
    sign = 1.0 if trade_off.y_better == "higher" else -1.0
    values = np.array(
        [
            [_number(item[trade_off.x].shown.value), sign * _number(item[trade_off.y].shown.value)]
            for item in measured
        ]
    )
    samples = np.stack(
        [
            np.stack([item[trade_off.x].samples, sign * item[trade_off.y].samples], axis=-1)
            for item in measured
        ],
        axis=1,
    )
    known = np.isfinite(values).all(axis=-1)
    share = non_dominated(samples).mean(axis=0)
    return Front(trade_off, non_dominated(values), np.where(known, share, np.nan))


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
