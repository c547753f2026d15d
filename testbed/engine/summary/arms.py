"""The summary entry of one arm in results.json (docs/results.md)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from testbed.engine.attacking.attacks import AttackResults
from testbed.engine.attacking.leakage import Release
from testbed.engine.serving.figures import ServingFigures, mean
from testbed.engine.serving.serve import ServedArm
from testbed.engine.setting.models import TierModel
from testbed.engine.setting.run_context import RunContext
from testbed.engine.summary.devices import DeviceColumns
from testbed.engine.training.fleet import TrainedArm
from testbed.privacy.intervals import Interval, least_interval, share_interval
from testbed.results.choice import best_of, rule_of
from testbed.results.columns import Record
from testbed.results.schema import (
    Accuracy,
    ArmOnClass,
    ArmResult,
    Cloud,
    Edge,
    Hijack,
    Installed,
    LatencyParts,
    Leakage,
    ProviderTraining,
    Serving,
    TierResult,
    Training,
    rebuilding,
)
from testbed.scenario.components import Component

BYTES = {"float32": 4, "int8": 1}


def arm_result(
    run_context: RunContext,
    arm: TrainedArm,
    served: ServedArm,
    devices: DeviceColumns,
    measured: tuple[Mapping[int, Leakage], Mapping[int, Release]],
    attacked: AttackResults,
) -> ArmResult:
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
    return ArmResult(
        name=arm.models.arm,
        **_installed(main, releases[first]),
        cloud_model=main.edge.front_end.cloud_model[0],
        accuracy=Accuracy(
            test=_accuracy(run_context, served.rows),
            final_validation=_final_validation(arm),
            best_validation=max(accuracies, default=None),
        ),
        training=_training(arm, devices),
        serving=_serving(run_context, arm, served),
        leakage=leakage[first],
        tiers=[
            _tier_result(run_context, arm, tier, served, measured) for tier in arm.models.used()
        ],
        by_device_class=_by_device_class(run_context, served, devices),
        attacks=attacked.entries,
        hijack=_hijack(run_context, arm),
        errors=sorted(set(arm.grid.errors))[:20],
        error_bounds=attacked.error_bounds,
        **_on_training(attacked),
        **_least(run_context, attacked),
    )


def _least(run_context: RunContext, attacked: AttackResults) -> dict[str, Any]:
    """Return the best attack's MSE if the victims' errors chose it; else the key is absent."""
    candidates = rebuilding(attacked.entries)
    best = best_of(candidates)
    if best is None or len(candidates) < 2 or rule_of(candidates) == "validation":
        return {}
    persons, evaluation = run_context.inputs.data.pool.persons, run_context.inputs.scenario
    columns = []
    for item in candidates:
        names = (item.adversary, item.attack)
        own = [row for row in attacked.rows if (row["adversary"], row["attack"]) == names]
        victims = np.array([row["victim"] for row in own], dtype=np.int64)
        errors = np.array([row["mse"] for row in own], dtype=np.float64)
        columns.append((errors, victims if persons is None else persons[victims]))
    resamples = evaluation.evaluation.bootstrap_resamples
    return {"best_mse": least_interval(best.scores.mse, columns, resamples, evaluation.seed)}


def _on_training(attacked: AttackResults) -> dict[str, Any]:
    """Return the attacks on training images; the key is absent where there are none."""
    return {"training_attacks": attacked.on_training} if attacked.on_training else {}


def _hijack(run_context: RunContext, arm: TrainedArm) -> Hijack | None:
    """Return who steered the training, what devices could notice, and an honest arm beside it."""
    scenario = run_context.inputs.scenario
    hijacked = next(item for item in scenario.arms if item.name == arm.models.arm)
    if hijacked.hijacked_by is None or arm.training_attacks is None:
        return None
    adversary = next(item for item in scenario.adversaries if item.name == hijacked.hijacked_by)
    honest = hijacked.model_copy(update={"hijacked_by": None})
    equal = (
        item.name for item in scenario.arms if item == honest.model_copy(update={"name": item.name})
    )
    return Hijack(
        adversary=adversary.name,
        attack=adversary.attack.name,
        honest_arm=next(equal, None),
        **arm.training_attacks.traces(),
    )


def tier_name(arm: TrainedArm, device: int) -> str:
    """Return the name of a device's tier."""
    return arm.models.tiers[int(arm.models.tier_of[device])].device_spec.tier


def _installed(tier: TierModel, release: Release) -> dict[str, Any]:
    """Return what runs on the devices of a tier and in the cloud for them, with its sizes."""
    stats, device_spec = tier.edge_stats, tier.device_spec
    installed = Installed(
        front_end=_described(device_spec.front_end),
        defence=_described(device_spec.defence),
        precision=device_spec.precision,
        edge=Edge(
            parameters=stats.params,
            macs=stats.macs,
            peak_activation_elements=stats.peak_activation_elements,
            feature_shape=list(tier.edge.front_end.feature_shape),
            feature_bytes=release.feature_bytes,
            weight_bytes=BYTES[device_spec.precision] * stats.params,
        ),
        cloud=Cloud(parameters=tier.cloud_stats.params, macs=tier.cloud_stats.macs),
        release=release.statistics,
    )
    return dict(installed)


def _tier_result(
    run_context: RunContext,
    arm: TrainedArm,
    tier: int,
    served: ServedArm,
    measured: tuple[Mapping[int, Leakage], Mapping[int, Release]],
) -> TierResult:
    leakage, releases = measured
    inside = arm.models.tier_of == tier
    rows = [row for row in served.rows if inside[row["device"]]]
    figures = ServingFigures(run_context.inputs.scenario.serving, served.times)
    costs, fleet = arm.grid.costs, run_context.inputs.fleet
    return TierResult(
        tier=arm.models.tiers[tier].device_spec.tier,
        devices=int(inside.sum()),
        device_classes=sorted(
            {fleet.models[model].device_class for model in np.unique(fleet.model_index[inside])}
        ),
        **_installed(arm.models.tiers[tier], releases[tier]),
        infeasible_training=_infeasible(costs.training_feasible[inside]),
        infeasible_serving=_infeasible(costs.serving_feasible[inside]),
        **dict(figures.of(rows)),
        accuracy=_accuracy(run_context, rows),
        leakage=leakage[tier],
    )


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


def _accuracy(run_context: RunContext, rows: Sequence[Record]) -> Interval | None:
    """Return the accuracy over answered requests; None where nothing was answered."""
    answered = [row for row in rows if row["status"] == "answered"]
    pool = run_context.inputs.data.pool
    victims = np.array([row["victim"] for row in answered], dtype=np.int64)
    clusters = victims if pool.persons is None else pool.persons[victims]
    correct = np.array([row["correct"] for row in answered], dtype=np.float64)
    return share_interval(correct, clusters) if answered else None


def _training(arm: TrainedArm, devices: DeviceColumns) -> Training:
    energy_mj, round_ms = devices["train_energy_mj"], devices["train_round_ms"]
    idle_mj = devices["train_idle_mj"]
    known = np.isfinite(energy_mj)
    taking_part = devices["train_uplink_bytes"] > 0
    return Training(
        protocol="provider" if arm.provider else "split_federated",
        provider=ProviderTraining(**arm.provider) if arm.provider else None,
        rounds=sum(1 for row in arm.rounds if row["protocol"] == "split_federated"),
        virtual_s=arm.grid.clock_ms / 1000.0,
        uplink_bytes=devices.total("train_uplink_bytes"),
        downlink_bytes=devices.total("train_downlink_bytes"),
        energy_j=devices.total("train_energy_mj", known) / 1000.0,
        energy_unknown_devices=int((taking_part & ~known).sum()),
        wake_tail_j=devices.total("train_wake_tail_mj", known) / 1000.0,
        idle_j=devices.total("train_idle_mj", np.isfinite(idle_mj)) / 1000.0,
        idle_unknown_devices=int(((round_ms > 0) & ~np.isfinite(idle_mj)).sum()),
        participations=devices.total("participations"),
        stragglers=devices.total("stragglers"),
        offline=devices.total("offline"),
        infeasible=_infeasible(devices["training_feasible"]),
        failed=sum(row["failed"] for row in arm.rounds),
        unused=sum(row["unused"] for row in arm.rounds),
    )


def _infeasible(feasible: NDArray[np.bool_]) -> int:
    return int((~feasible).sum())


def _serving(run_context: RunContext, arm: TrainedArm, served: ServedArm) -> Serving:
    answered = [row for row in served.rows if row["status"] == "answered"]
    statuses = Counter(row["status"] for row in served.rows)
    figures = ServingFigures(run_context.inputs.scenario.serving, served.times)
    return Serving(
        **dict(figures.of(served.rows)),
        offline=statuses["offline"],
        infeasible=statuses["infeasible"],
        failed=statuses["failed"],
        latency_parts_ms=LatencyParts(
            **{part: mean(answered, f"{part}_ms") for part in LatencyParts.model_fields}
        ),
        downlink_bytes_per_request=mean(answered, "downlink_bytes"),
        cloud=figures.cloud(served.batch, [tier.device_spec.tier for tier in arm.models.tiers]),
    )


def _by_device_class(
    run_context: RunContext, served: ServedArm, devices: DeviceColumns
) -> list[ArmOnClass]:
    results = []
    figures = ServingFigures(run_context.inputs.scenario.serving, served.times)
    classes = devices.texts["device_class"]
    for name in sorted({classes.words[number] for number in np.unique(classes.number_of)}):
        own = np.array([word == name for word in classes.words])
        of_class = own[classes.number_of]
        rows = [row for row in served.rows if row["device_class"] == name]
        answered = [row for row in rows if row["status"] == "answered"]
        results.append(
            ArmOnClass(
                device_class=name,
                devices=int(of_class.sum()),
                infeasible_training=_infeasible(devices["training_feasible"][of_class]),
                infeasible_serving=_infeasible(devices["serving_feasible"][of_class]),
                **dict(figures.of(rows)),
                accuracy=_accuracy(run_context, rows),
                edge_compute_ms=mean(answered, "compute_ms"),
                stragglers=devices.total("stragglers", of_class),
                offline=devices.total("offline", of_class),
                participations=devices.total("participations", of_class),
            )
        )
    return results
