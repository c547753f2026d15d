"""Errors of the cost model against published latencies."""

import argparse
import json
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from testbed.cli.tables import console, table
from testbed.core.errors import UserError
from testbed.fleet.calibration.fit_latency import cross_validate, form_ms, macs_only_ms, predict_ms
from testbed.fleet.calibration.latency_form import FAMILIES
from testbed.fleet.calibration.published import Measurement, Pairs, pair
from testbed.fleet.calibration.residuals import load_residuals
from testbed.fleet.table import read_table

Floats = NDArray[np.float64]
GROUPS = {
    "CPU": ("cpu", "cpu-gemm", "cpu-int8"),
    "GPU": ("gpu", "gpu-int8"),
    "MCU": ("mcu",),
    "NPU": ("npu",),
}
WORST = 3
FEWEST_FOR_WORST = 3


@dataclass(frozen=True)
class Errors:
    """How far predictions are from measurements; percentages are of the measured latency."""

    median_abs_pct_error: float
    p90_abs_pct_error: float
    share_within_1_5x: float


@dataclass(frozen=True)
class NetworkErrors:
    """The error on one network."""

    network: str
    predictions: int
    median_abs_pct_error: float


@dataclass(frozen=True)
class GroupErrors:
    """Errors of one backend family: of the model, of its plain form, and of MACs over a rate."""

    family: str
    predictions: int
    devices: int
    model: Errors
    form_only: Errors
    macs_only: Errors
    worst_networks: list[NetworkErrors]


def judge(predicted_ms: Floats, measured_ms: Floats) -> Errors:
    """Compare predictions (N,) with measurements (N,)."""
    error = np.abs(predicted_ms / measured_ms - 1.0) * 100.0
    factor = np.maximum(predicted_ms / measured_ms, measured_ms / predicted_ms)
    return Errors(
        round(float(np.median(error)), 2),
        round(float(np.quantile(error, 0.9)), 2),
        round(float(np.mean(factor <= 1.5)), 4),
    )


def group_errors(
    name: str, rows: NDArray[np.bool_], pairs: Pairs, model_ms: Floats, plain_ms: Floats
) -> GroupErrors:
    """Judge one group of pairs."""
    chosen = pairs.select(rows)
    measured = chosen.latency_ms
    error = np.abs(model_ms[rows] / measured - 1.0) * 100.0
    worst = [
        NetworkErrors(network, int(of.sum()), round(float(np.median(error[of])), 2))
        for network in np.unique(chosen.network).tolist()
        if (of := chosen.network == network).sum() >= FEWEST_FOR_WORST
    ]
    worst.sort(key=lambda network: -network.median_abs_pct_error)
    return GroupErrors(
        name,
        int(rows.sum()),
        len(np.unique(chosen.device)),
        judge(model_ms[rows], measured),
        judge(plain_ms[rows], measured),
        judge(macs_only_ms(chosen), measured),
        worst[:WORST],
    )


def all_errors(pairs: Pairs, model_ms: Floats, plain_ms: Floats) -> list[GroupErrors]:
    """Judge every backend family that occurs, and all together."""
    masks = {name: np.isin(pairs.family, families) for name, families in GROUPS.items()}
    masks["overall"] = np.ones(len(pairs), dtype=np.bool_)
    return [
        group_errors(name, rows, pairs, model_ms, plain_ms)
        for name, rows in masks.items()
        if rows.any()
    ]


def print_errors(title: str, groups: list[GroupErrors]) -> None:
    """Print one table of errors."""
    made = table(
        title,
        *("family", "predictions", "devices", "median error", "p90", "within 1.5x"),
        *("plain form", "MACs / rate", "<worst networks (median error)"),
    )
    for group in groups:
        made.add_row(
            group.family,
            str(group.predictions),
            str(group.devices),
            f"{group.model.median_abs_pct_error:.1f} %",
            f"{group.model.p90_abs_pct_error:.0f} %",
            f"{group.model.share_within_1_5x:.0%}",
            f"{group.form_only.median_abs_pct_error:.1f} %",
            f"{group.macs_only.median_abs_pct_error:.1f} %",
            ", ".join(f"{w.network} {w.median_abs_pct_error:.0f} %" for w in group.worst_networks),
        )
    console().print(made)


def validate(options: argparse.Namespace) -> None:
    """Predict the published latencies, and print the errors."""
    if options.folds < 2:
        raise UserError(f"--folds: must be at least 2, got {options.folds}")
    pairs, unpredicted = pair(read_table(options.measured, Measurement))
    if not len(pairs):
        raise UserError(
            f"{options.measured}: no row of role 'validate' has a row of role 'calibrate' on "
            "the same device and backend"
        )
    plain_ms = form_ms(pairs, FAMILIES)
    groups = all_errors(pairs, predict_ms(pairs, FAMILIES, load_residuals()), plain_ms)
    held_out: list[GroupErrors] = []
    if options.cross_validate:
        plain_ms, model_ms = cross_validate(pairs, options.folds)
        held_out = all_errors(pairs, model_ms, plain_ms)
    loosely = int((~pairs.exact).sum())
    if options.json:
        report = {
            "file": options.measured.name,
            "predictions": len(pairs),
            "not_predicted": unpredicted,
            "loosely_calibrated": loosely,
            "groups": [asdict(group) for group in groups],
            "cross_validation": [asdict(of_group) for of_group in held_out],
        }
        print(json.dumps(report, indent=2))
        return
    print_errors("Shipped constants", groups)
    if held_out:
        print_errors(
            f"Devices never seen while fitting ({options.folds}-fold over devices)",
            held_out,
        )
    console().print(
        f"{loosely} predictions use a calibration at other threads, precision or settings; "
        f"{unpredicted} rows have no calibration on their device and backend, or no MACs, and are "
        "not predicted.\n'plain form' is what front-ends of this project get: no correction for "
        "well-known networks.",
        highlight=False,
    )
