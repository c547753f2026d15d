"""Rows of devices.parquet, and the summary entry of one arm in results.json (docs/results.md)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from testbed.engine.network.ledger import COUNTS
from testbed.engine.serving.figures import ServingFigures, mean
from testbed.engine.serving.serve import ServedArm
from testbed.engine.setting.models import TierModel
from testbed.engine.setting.run_context import RunContext
from testbed.engine.training.fleet import TrainedArm
from testbed.privacy.intervals import bootstrap_interval
from testbed.scenario.components import Component

Row = dict[str, Any]
BYTES = {"float32": 4, "int8": 1}
LATENCY_PARTS = ("compute", "uplink", "queue", "cloud", "downlink")


def device_rows(run_context: RunContext, arm: TrainedArm, served: ServedArm) -> list[Row]:
    """Return one row per device."""
    inputs, grid, costs = run_context.inputs, arm.grid, arm.grid.costs
    requests = np.bincount([row["device"] for row in served.rows], minlength=costs.devices)
    correct = np.bincount(
        [row["device"] for row in served.rows if row["correct"]], minlength=costs.devices
    )
    charged, counted = grid.ledger.amounts, grid.ledger.counts
    inference_ms, images = costs.inference_ms_of_all(), inputs.data.device_images
    rows = []
    for device in range(costs.devices):
        model, fleet = inputs.fleet.device(device), inputs.fleet
        row: Row = {
            "arm": arm.models.arm,
            "device": device,
            "device_class": model.device_class,
            "tier": tier_name(arm, device),
            "model": model.name,
            "link": fleet.link(device).name,
            "uplink_mbit_s": float(fleet.uplink_mbit_s[device]),
            "downlink_mbit_s": float(fleet.downlink_mbit_s[device]),
            "rtt_ms": float(fleet.rtt_ms[device]),
            "ram_mb": model.ram_mb,
            "training_images": len(images[device]),
            "training_feasible": costs.can_train(device),
            "serving_feasible": costs.can_serve(device),
            "edge_inference_ms": float(inference_ms[device]),
        }
        row |= {name: int(counted[name][device]) for name in COUNTS}
        for (phase, amount), column in charged.items():
            value = float(column[device])
            row[f"{phase}_{amount}"] = int(value) if amount.endswith("_bytes") else _known(value)
        row["requests"], row["correct"] = int(requests[device]), int(correct[device])
        rows.append(row)
    return rows


def arm_entry(
    run_context: RunContext,
    arm: TrainedArm,
    served: ServedArm,
    devices: Sequence[Row],
    measured: tuple[dict[int, Row], dict[int, Row]],
    attacks: list[Row],
) -> Row:
    """Return the summary of one arm.

    Parameters
    ----------
    measured : leakage of each tier's features, and what each tier puts on the wire. Where one
        number stands for the arm, it is that of its main tier.
    """
    main, first = arm.models.main, arm.models.used()[0]
    leakage, releases = measured
    accuracies = [
        row["validation_accuracy"] for row in arm.rounds if row["validation_accuracy"] is not None
    ]
    return {
        "name": arm.models.arm,
        **_installed(main, releases[first]),
        "cloud_model": main.edge.front_end.cloud_model[0],
        "accuracy": {
            "test": _accuracy(run_context, served.rows),
            "final_validation": _final_validation(arm),
            "best_validation": max(accuracies, default=None),
        },
        "training": _training(arm, devices),
        "serving": _serving(run_context, arm, served),
        "leakage": leakage[first],
        "tiers": [
            _tier_entry(run_context, arm, tier, served, measured) for tier in arm.models.used()
        ],
        "by_device_class": _by_device_class(run_context, served, devices),
        "attacks": attacks,
        "hijack": _hijack(run_context, arm),
        "errors": sorted(set(arm.grid.errors))[:20],
    }


def _hijack(run_context: RunContext, arm: TrainedArm) -> Row | None:
    """Return who steered the training, what devices could notice, and an honest arm beside it."""
    scenario = run_context.inputs.scenario
    arms = {item.name: item for item in scenario.arms}
    own = arms[arm.models.arm]
    if own.hijacked_by is None or arm.training_attacks is None:
        return None
    adversary = next(item for item in scenario.adversaries if item.name == own.hijacked_by)
    honest = own.model_copy(update={"hijacked_by": None})
    alike = (
        item.name for item in scenario.arms if item == honest.model_copy(update={"name": item.name})
    )
    return {
        "adversary": adversary.name,
        "attack": adversary.attack.name,
        "honest_arm": next(alike, None),
        **arm.training_attacks.traces(),
    }


def tier_name(arm: TrainedArm, device: int) -> str:
    """Return the name of a device's tier."""
    return arm.models.tiers[int(arm.models.tier_of[device])].device_spec.tier


def _installed(tier: TierModel, release: Row) -> Row:
    """Return what runs on the devices of a tier and in the cloud for them, with its sizes."""
    stats, device_spec = tier.edge_stats, tier.device_spec
    width = BYTES[device_spec.precision]
    return {
        "front_end": _described(device_spec.front_end),
        "defence": _described(device_spec.defence),
        "precision": device_spec.precision,
        "edge": {
            "parameters": stats.params,
            "macs": stats.macs,
            "peak_activation_elements": stats.peak_activation_elements,
            "feature_shape": list(tier.edge.front_end.feature_shape),
            "feature_bytes": release["feature_bytes"],
            "weight_bytes": width * stats.params,
        },
        "cloud": {"parameters": tier.cloud_stats.params, "macs": tier.cloud_stats.macs},
        "release": release["statistics"],
    }


def _tier_entry(
    run_context: RunContext,
    arm: TrainedArm,
    tier: int,
    served: ServedArm,
    measured: tuple[dict[int, Row], dict[int, Row]],
) -> Row:
    leakage, releases = measured
    members = np.flatnonzero(arm.models.tier_of == tier)
    own = set(members.tolist())
    rows = [row for row in served.rows if row["device"] in own]
    figures = ServingFigures(run_context.inputs.scenario.serving, served.times)
    costs, fleet = arm.grid.costs, run_context.inputs.fleet
    return {
        "tier": arm.models.tiers[tier].device_spec.tier,
        "devices": len(members),
        "device_classes": sorted({fleet.device_class(int(device)) for device in members}),
        **_installed(arm.models.tiers[tier], releases[tier]),
        "infeasible_training": int((~costs.training_feasible[members]).sum()),
        "infeasible_serving": int((~costs.serving_feasible[members]).sum()),
        **figures.of(rows),
        "accuracy": _accuracy(run_context, rows),
        "leakage": leakage[tier],
    }


def _final_validation(arm: TrainedArm) -> float | None:
    """Return the validation accuracy of what is deployed, where it was measured."""
    rows = [row for row in arm.rounds if row["validation_accuracy"] is not None]
    if rows and arm.provider and rows[-1]["protocol"] == "provider":
        rows = [row for row in rows if row["round"] == arm.provider["deployed_epoch"]]
    return rows[-1]["validation_accuracy"] if rows else None


def _described(component: Component) -> str:
    """Return a component and its options as one line of text."""

    def plainly(value: Any) -> str:
        if not isinstance(value, dict):  # anything but a component under this one
            return str(value)
        rest = {name: item for name, item in value.items() if name != "name"}
        return _described(Component(name=value["name"], options=rest))

    options = ", ".join(f"{name} {plainly(value)}" for name, value in component.options.items())
    return f"{component.name} ({options})" if options else component.name


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value


def _accuracy(run_context: RunContext, rows: Sequence[Row]) -> Row | None:
    """Return the accuracy over answered requests; None where nothing was answered."""
    answered = np.array([float(row["correct"]) for row in rows if row["status"] == "answered"])
    scenario = run_context.inputs.scenario
    resamples = scenario.evaluation.bootstrap_resamples
    if not len(answered):
        return None
    return bootstrap_interval(answered, resamples, scenario.seed).as_dict()


def _sum(rows: Sequence[Row], column: str) -> int:
    return sum(row[column] for row in rows)


def _infeasible(rows: Sequence[Row], column: str) -> int:
    return sum(1 for row in rows if not row[column])


def _training(arm: TrainedArm, devices: Sequence[Row]) -> Row:
    known = [row["train_energy_mj"] for row in devices if row["train_energy_mj"] is not None]
    taking_part = [row for row in devices if row["train_uplink_bytes"] > 0]
    return {
        "protocol": "provider" if arm.provider else "split_federated",
        "provider": arm.provider,
        "rounds": sum(1 for row in arm.rounds if row["protocol"] == "split_federated"),
        "virtual_s": arm.grid.clock_ms / 1000.0,
        "uplink_bytes": _sum(devices, "train_uplink_bytes"),
        "downlink_bytes": _sum(devices, "train_downlink_bytes"),
        "energy_j": sum(known) / 1000.0,
        "energy_unknown_devices": sum(1 for row in taking_part if row["train_energy_mj"] is None),
        "participations": _sum(devices, "participations"),
        "stragglers": _sum(devices, "stragglers"),
        "offline": _sum(devices, "offline"),
        "infeasible": _infeasible(devices, "training_feasible"),
        "failed": sum(row["failed"] for row in arm.rounds),
    }


def _serving(run_context: RunContext, arm: TrainedArm, served: ServedArm) -> Row:
    answered = [row for row in served.rows if row["status"] == "answered"]
    figures = ServingFigures(run_context.inputs.scenario.serving, served.times)
    return figures.of(served.rows) | {
        "offline": _status(served.rows, "offline"),
        "infeasible": _status(served.rows, "infeasible"),
        "failed": _status(served.rows, "failed"),
        "latency_parts_ms": {part: mean(answered, f"{part}_ms") for part in LATENCY_PARTS},
        "downlink_bytes_per_request": mean(answered, "downlink_bytes"),
        "cloud": figures.cloud(served.batch, [tier.device_spec.tier for tier in arm.models.tiers]),
    }


def _status(rows: Sequence[Row], status: str) -> int:
    return sum(1 for row in rows if row["status"] == status)


def _by_device_class(
    run_context: RunContext, served: ServedArm, devices: Sequence[Row]
) -> list[Row]:
    entries = []
    figures = ServingFigures(run_context.inputs.scenario.serving, served.times)
    for name in sorted({row["device_class"] for row in devices}):
        own = [row for row in devices if row["device_class"] == name]
        rows = [row for row in served.rows if row["device_class"] == name]
        answered = [row for row in rows if row["status"] == "answered"]
        entries.append(
            {
                "device_class": name,
                "devices": len(own),
                "infeasible_training": _infeasible(own, "training_feasible"),
                "infeasible_serving": _infeasible(own, "serving_feasible"),
                **figures.of(rows),
                "accuracy": _accuracy(run_context, rows),
                "edge_compute_ms": mean(answered, "compute_ms"),
                "stragglers": _sum(own, "stragglers"),
                "offline": _sum(own, "offline"),
                "participations": _sum(own, "participations"),
            }
        )
    return entries
