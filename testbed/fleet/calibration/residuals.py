"""Corrections of the latency form for widely measured networks, learned from measurements.

For a network with measurements on many devices, the logarithm of measured over predicted latency is
regressed, per latency family, on three properties of a device: its threads, its speed, and the
speed-up of int8 over float. The table does not contain front-ends of this project. Their estimates
come from the plain form and have its larger error.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from testbed.core.files import csv_text, write_text
from testbed.fleet.calibration.published import Pairs
from testbed.fleet.table import Real, Row, read_table

Floats = NDArray[np.float64]
RESIDUALS_PATH = Path(__file__).with_name("network_residuals.csv")
COEFFICIENTS = ("intercept", "log_threads", "log_speed", "int8_ratio")
LARGEST_CORRECTION = 0.8
"""Bound of the logarithm of a correction, for devices that differ from all in the table."""

REFERENCE_MS = 30.0
REFERENCE_MACS = 300e6
CORRECTED = ("cpu", "cpu-int8", "gpu", "gpu-int8", "npu")
"""Families in which the corrections help on unseen devices. Three networks on microcontrollers are
too few (the median error on unseen boards rises from 14 % to 16 %)."""

RIDGE = 1.0
RIDGE_ON_SLOPES = 3.0
ROBUST_SCALE = 0.05
ITERATIONS = 12


def descriptors(pairs: Pairs) -> Floats:
    """Return the regressors (N, 4) of the devices: 1, log threads, log speed, int8 ratio.

    The int8 ratio of a GPU backend describes the CPU that it falls back to, not the GPU.
    """
    on_cpu = np.char.startswith(pairs.family, "cpu").astype(np.float64)
    speed = np.log(pairs.known_ms / (pairs.known.macs / REFERENCE_MACS) / REFERENCE_MS)
    return np.stack(
        [
            np.ones(len(pairs)),
            np.log(np.clip(pairs.threads, 1.0, 16.0)) / 2.0,
            np.clip(speed, -3.5, 3.5) / 2.0,
            on_cpu * np.clip(pairs.int8_ratio, -2.0, 2.0),
        ],
        axis=1,
    )


@dataclass
class Residuals:
    """Coefficients (4,) by latency family and network; families share ``cpu`` with ``cpu-gemm``."""

    coefficients: dict[tuple[str, str], Floats] = field(default_factory=dict)

    def log_correction(self, pairs: Pairs) -> Floats:
        """Return the expected logarithm of measured over predicted, 0 for unknown networks."""
        zero = np.zeros(len(COEFFICIENTS))
        rows = [
            self.coefficients.get((table_family(family), network), zero)
            for family, network in zip(pairs.family.tolist(), pairs.network.tolist(), strict=True)
        ]
        if not rows:
            return np.zeros(0)
        expected = np.sum(descriptors(pairs) * np.stack(rows), axis=1)
        limited: Floats = np.clip(expected, -LARGEST_CORRECTION, LARGEST_CORRECTION)
        return limited

    def write(self, path: Path) -> None:
        """Write the table as CSV."""
        columns = ResidualRow.columns()
        rows = (
            dict(zip(columns, (*key, *(f"{value:.4f}" for value in values)), strict=True))
            for key, values in sorted(self.coefficients.items())
        )
        write_text(path, csv_text(rows, columns))


def table_family(family: str) -> str:
    """Return the family of the table that a network's residuals belong to."""
    return "cpu" if family == "cpu-gemm" else family


class ResidualRow(Row):
    """One row of the table."""

    family: str
    network: str
    intercept: Real
    log_threads: Real
    log_speed: Real
    int8_ratio: Real


def load_residuals(path: Path = RESIDUALS_PATH) -> Residuals:
    """Read the table."""
    return Residuals(
        {
            (row.family, row.network): np.array([getattr(row, name) for name in COEFFICIENTS])
            for row in read_table(path, ResidualRow)
        }
    )


def fit_residuals(pairs: Pairs, form_ms: Floats) -> Residuals:
    """Regress measured over predicted latency per family and network, robustly.

    Least absolute deviations by iteratively reweighted ridge regression: slow outliers (throttled
    or mismeasured devices) must not move a network's correction.
    """
    log_residual = np.log(pairs.latency_ms / form_ms)
    known = descriptors(pairs)
    families = np.array([table_family(family) for family in pairs.family.tolist()])
    penalty = RIDGE * np.diag([1.0] + [RIDGE_ON_SLOPES] * (len(COEFFICIENTS) - 1))
    coefficients: dict[tuple[str, str], Floats] = {}
    for family in CORRECTED:
        for network in np.unique(pairs.network[families == family]).tolist():
            rows = (families == family) & (pairs.network == network)
            x, y = known[rows], log_residual[rows]
            weight = np.ones(len(y))
            for _ in range(ITERATIONS):
                normal = x.T @ (x * weight[:, None]) + penalty
                beta = np.linalg.solve(normal, x.T @ (weight * y))
                weight = 2.0 * ROBUST_SCALE / np.maximum(np.abs(y - x @ beta), ROBUST_SCALE)
            coefficients[family, network] = beta
    return Residuals(coefficients)
