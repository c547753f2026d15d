"""Fits the latency form and its corrections to published latencies; evaluates on held-out devices.

The command prints the constants for ``testbed.fleet.calibration.latency_form`` and writes
``network_residuals.csv``::

    python -m testbed.fleet.calibration.fit_latency measured_latencies.csv
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from testbed.core.arguments import parser_of
from testbed.core.errors import command
from testbed.fleet.calibration.latency_form import (
    FAMILIES,
    LARGEST_OVERHEAD,
    LatencyFamily,
    form_units,
)
from testbed.fleet.calibration.published import Measurement, Pairs, pair
from testbed.fleet.calibration.residuals import RESIDUALS_PATH, Residuals, fit_residuals
from testbed.fleet.table import read_table

Floats = NDArray[np.float64]
Families = dict[str, LatencyFamily]

FITTED = ("cpu", "cpu-int8", "gpu", "gpu-int8", "npu")
"""Families with enough measurements. The constants of microcontrollers come from an analysis of all
MLPerf Tiny results, which a refit on three networks does not improve."""

BOUNDS = {
    "fixed_ms": (0.01, 5.0),
    "conv3x3_factor": (0.05, 1.5),
    "macs_per_activation": (1.0, 1000.0),
    "macs_per_param": (0.01, 1200.0),
}
FIRST_STEP = 0.7
LAST_STEP = 0.01


def form_ms(pairs: Pairs, families: Families = FAMILIES) -> Floats:
    """Return the latencies (N,) that the form predicts from the calibrations."""
    predicted = np.zeros(len(pairs))
    for name in np.unique(pairs.family).tolist():
        rows = pairs.family == name
        predicted[rows] = _one_family_ms(pairs.select(rows), families[name])
    return predicted


def _one_family_ms(pairs: Pairs, family: LatencyFamily) -> Floats:
    overhead = np.minimum(family.fixed_ms, LARGEST_OVERHEAD * pairs.known_ms)
    ratio: Floats = form_units(family, pairs.wanted) / form_units(family, pairs.known)
    predicted: Floats = overhead + (pairs.known_ms - overhead) * ratio
    return predicted


def macs_only_ms(pairs: Pairs) -> Floats:
    """Return the latencies (N,) that plain MACs over a measured rate predict, for comparison."""
    predicted: Floats = pairs.known_ms * pairs.wanted.macs / pairs.known.macs
    return predicted


def fit_families(pairs: Pairs, start: Families = FAMILIES) -> Families:
    """Fit the constants of every family that has measurements; ``cpu-gemm`` follows ``cpu``."""
    fitted = dict(start)
    for name in FITTED:
        rows = pairs.family == name
        if rows.sum() >= 50:
            fitted[name] = _fit(pairs.select(rows), start[name])
    fitted["cpu-gemm"] = replace(fitted["cpu"], conv3x3_factor=1.0)
    return fitted


def _fit(pairs: Pairs, start: LatencyFamily) -> LatencyFamily:
    """Minimise the mean absolute log error by a pattern search over the constants' logarithms."""
    limits = np.log(np.array(list(BOUNDS.values())))

    def family(theta: Floats) -> LatencyFamily:
        return LatencyFamily(**dict(zip(BOUNDS, np.exp(theta).tolist(), strict=True)))

    def loss(theta: Floats) -> float:
        error = np.log(_one_family_ms(pairs, family(theta)) / pairs.latency_ms)
        return float(np.abs(error).mean())

    given = np.log(np.maximum([getattr(start, name) for name in BOUNDS], 1e-9))
    theta = np.clip(given, limits[:, 0], limits[:, 1])
    best, step = loss(theta), FIRST_STEP
    while step > LAST_STEP:
        improved = False
        for axis in range(len(theta)):
            for move in (step, -step):
                trial = theta.copy()
                trial[axis] = np.clip(trial[axis] + move, *limits[axis])
                score = loss(trial)
                if score < best:
                    theta, best, improved = trial, score, True
        if not improved:
            step /= 2.0
    return family(theta)


def predict_ms(pairs: Pairs, families: Families, residuals: Residuals) -> Floats:
    """Return the latencies (N,) of the form, corrected for networks that are well known."""
    predicted: Floats = form_ms(pairs, families) * np.exp(residuals.log_correction(pairs))
    return predicted


def cross_validate(pairs: Pairs, folds: int, seed: int = 0) -> tuple[Floats, Floats]:
    """Predict every device with constants and residuals fitted on the other devices only.

    Returns
    -------
    Latencies (N,) of the plain form, and of the form with residuals.
    """
    devices = np.unique(pairs.device)
    np.random.default_rng(seed).shuffle(devices)
    plain, corrected = np.zeros(len(pairs)), np.zeros(len(pairs))
    for fold in range(folds):
        held_out = np.isin(pairs.device, devices[fold::folds])
        if not held_out.any() or held_out.all():
            continue
        others, unseen = pairs.select(~held_out), pairs.select(held_out)
        families = fit_families(others)
        residuals = fit_residuals(others, form_ms(others, families))
        plain[held_out] = form_ms(unseen, families)
        corrected[held_out] = predict_ms(unseen, families, residuals)
    return plain, corrected


@command
def main(arguments: list[str] | None = None) -> int:
    """Fit, print and write; return the exit status."""
    parser = parser_of("testbed.fleet.calibration.fit_latency", __doc__)
    parser.add_argument("measured", type=Path, help="CSV of published latencies")
    parser.add_argument("--out", type=Path, default=RESIDUALS_PATH, help="residuals to write")
    options = parser.parse_args(arguments)
    pairs, _ = pair(read_table(options.measured, Measurement))
    fitted = fit_families(pairs)
    for name in FITTED:
        constants = ", ".join(f"{value:.3g}" for value in vars(fitted[name]).values())
        print(f"{name}: LatencyFamily({constants})")
    residuals = fit_residuals(pairs, form_ms(pairs, FAMILIES))
    residuals.write(options.out)
    print(f"{options.out}: {len(residuals.coefficients)} networks and families")
    return 0


if __name__ == "__main__":
    sys.exit(main())
