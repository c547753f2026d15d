"""The whole experiment, step by step: train, serve and attack every arm, then write and report."""

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from server.cloud import torch_threads
from testbed.core.files import write_json
from testbed.core.process import tune_malloc
from testbed.core.progress import Progress
from testbed.core.project import VERSION
from testbed.data.federated import FederatedData
from testbed.engine.attacking.attacks import attack_arm
from testbed.engine.attacking.leakage import leakage_by_tier
from testbed.engine.attacking.release import measure_release
from testbed.engine.attacking.sanity import sanity_checks
from testbed.engine.hosts.backend import Backend
from testbed.engine.hosts.on_ray.address import check_address
from testbed.engine.network.costs import DeviceCosts, TierCosts
from testbed.engine.network.grid import FleetGrid, GridOptions
from testbed.engine.network.ledger import Ledger
from testbed.engine.network.message_sizes import largest_reply_bytes
from testbed.engine.network.packet_loss import PacketLoss
from testbed.engine.network.taps import Tap
from testbed.engine.serving.serve import serve
from testbed.engine.serving.service_times import settle_service_times
from testbed.engine.setting.models import ArmModels, build_models
from testbed.engine.setting.positions import devices_read
from testbed.engine.setting.run_context import RunContext, RunInputs, read_run_inputs, start_backend
from testbed.engine.summary.arms import arm_entry, device_rows
from testbed.engine.summary.comparisons import compare_arms
from testbed.engine.summary.host_facts import second_estimates
from testbed.engine.summary.reference import reference_rate
from testbed.engine.summary.self_checks import self_checks
from testbed.engine.training.fleet import TrainedArm, prepare, restore, train
from testbed.engine.training.provider import train_at_provider
from testbed.fleet.cost_model import training_step_ms
from testbed.report.build import build_report
from testbed.results.columns import TABLES
from testbed.results.writing import (
    Row,
    check_folder,
    open_folder,
    read_arm,
    recorded_before,
    write_arm,
    write_samples,
    write_table,
)
from testbed.scenario.schema import Arm, Scenario

SCHEMA_VERSION = 1


class Experiment:
    """One run of a scenario into one folder.

    Parameters
    ----------
    folder : the results folder, opened by ``run``.
    ray_address : of a Ray cluster to join; None runs on this machine.
    """

    def __init__(
        self,
        scenario: Scenario,
        folder: Path,
        progress: Progress,
        ray_address: str | None = None,
    ) -> None:
        self.scenario = scenario
        self.folder = folder
        self.progress = progress
        self.ray_address = ray_address
        self.hosts = 1
        self._finished: dict[str, tuple[Row, dict[str, list[Row]], Any]] = {}
        self._inputs: RunInputs | None = None
        self._usage: dict[str, Any] = {}
        self._restarts = self._job_restarts = 0
        self._models: list[Row] = []
        self._reference: Row = {}
        self._sanity: list[Row] = []
        self._attack_seconds: list[Row] = []
        self._second_estimates: list[Row] = []

    def run(
        self,
        force: bool = False,
        resume: bool = False,
        on_open: Callable[[], None] = lambda: None,
    ) -> Path:
        """Run everything and return the path of the report.

        Parameters
        ----------
        force : replace a results folder that exists.
        resume : continue the run whose folder it is.
        on_open : called once the folder is ready.

        Raises
        ------
        UserError : input that a person has to put right; nothing has been overwritten.
        HostError : a host or adversary process died; the run can be resumed.
        KeyboardInterrupt : the partial results have been written before it goes on.
        """
        tune_malloc()
        # 1. Everything that can be wrong is checked before anything is written.
        check_folder(self.folder, self.scenario, force, resume)
        if self.ray_address is not None:
            check_address(self.ray_address)
        with self.progress.phase("load data and fleet"):
            if resume:
                self.scenario = recorded_before(self.folder, self.scenario)
            self._inputs = inputs = read_run_inputs(self.scenario)
            models = {arm.name: arm_models(inputs, arm) for arm in self.scenario.arms}
            self.scenario = settle_service_times(self.scenario, list(models.values()))
            self._inputs = inputs = replace(inputs, scenario=self.scenario)
        open_folder(self.folder, self.scenario, resume)
        on_open()
        with (
            self.progress.phase("check the attacks"),
            threadpool_limits(1, user_api="blas"),
            torch_threads(1),
        ):
            self._sanity = sanity_checks(inputs.data, self.scenario.seed)
        for arm in self.scenario.arms:
            kept = read_arm(self.folder / "checkpoints" / arm.name, self.progress.say)
            if kept is not None:
                self._finished[arm.name] = kept
        try:
            # 2. Start the hosts.
            with self.progress.phase("start hosts"):
                backend = start_backend(inputs, self.scenario.engine.hosts, self.ray_address)
                self.hosts = backend.hosts
            with backend:
                run_context = RunContext(inputs, backend, self.folder, self.progress)
                # 3. Train, serve and attack, arm by arm.
                for arm in self.scenario.arms:
                    self._arm(run_context, models[arm.name])
                # 4. What the simulation itself cost.
                with self.progress.phase("measure the host"):
                    first = models[self.scenario.arms[0].name]
                    self._reference = reference_rate(first.main)
                    self._second_estimates = second_estimates(inputs, list(models.values()))
                    self._measure(backend)
        except KeyboardInterrupt:
            self.progress.stop_requested = lambda: False
            self._write("interrupted")
            raise
        # 5. Write the results and the report.
        return self._write("complete")

    def _arm(self, run_context: RunContext, models: ArmModels) -> None:
        name = models.arm
        arm_folder = self.folder / "checkpoints" / name
        if name in self._finished:
            return
        run_context.backend.install([tier.device_spec for tier in models.tiers])
        taps = self._taps()
        arm = prepare(run_context, models, self._grid(run_context, models, taps))
        central = self.scenario.training.protocol == "provider"
        if not restore(arm, arm_folder, self.progress.say) and central:
            self._models.append(train_at_provider(run_context, arm))
        if arm.server.training.rounds:
            phase = f"{'fine-tune' if central else 'train'} {name}"
            with self.progress.phase(phase, arm.server.training.rounds):
                train(run_context, arm)
        with self.progress.phase(f"serve {name}", len(run_context.inputs.data.parts.victims)):
            served = serve(run_context, arm)
        with (
            self.progress.phase(f"attack {name}", len(self.scenario.adversaries)),
            threadpool_limits(1, user_api="blas"),  # the order of sums sets their bits
            torch_threads(1),
        ):
            leakage = leakage_by_tier(self.scenario, run_context.inputs.data, arm)
            releases = self._releases(run_context.inputs.data, arm)
            attacked = attack_arm(run_context, arm, taps, served)
        devices = device_rows(run_context, arm, served)
        tables = {
            "rounds": arm.rounds,
            "devices": devices,
            "requests": served.rows,
            "attacks": attacked.rows,
        }
        entry = arm_entry(run_context, arm, served, devices, (leakage, releases), attacked.entries)
        self._attack_seconds += attacked.seconds
        entry["error_bounds"] = attacked.error_bounds
        entry["checks"] = self_checks(arm, served, attacked, run_context.inputs)
        write_arm(arm_folder, entry, tables, attacked.samples)
        self._measure(run_context.backend)
        # Read back, so that a resumed run writes exactly what this one writes.
        finished = read_arm(arm_folder)
        assert finished is not None
        self._finished[name] = finished

    def _taps(self) -> list[Tap]:
        assert self._inputs is not None
        scenario, fleet = self.scenario, self._inputs.fleet
        shared = scenario.fleet.devices_per_access_point
        return [
            Tap(item.name, devices_read(item.name, item.position, fleet, scenario.seed, shared))
            for item in scenario.adversaries
        ]

    def _grid(self, run_context: RunContext, models: ArmModels, taps: Sequence[Tap]) -> FleetGrid:
        scenario, inputs = self.scenario, run_context.inputs
        costs = device_costs(inputs, models)
        options = GridOptions(
            round_deadline_ms=scenario.training.round_deadline_s * 1000.0,
            shard_size=scenario.engine.shard_size,
            online=inputs.online(),
            cloud_step_ms=lambda images: training_step_ms(
                inputs.cloud_device, models.main.cloud_stats, images
            ),
            packet_loss=PacketLoss(scenario.fleet.loss_probability, scenario.seed),
            largest_reply_bytes=largest_reply_bytes(models),
        )
        return FleetGrid(run_context.backend, costs, Ledger(len(inputs.fleet)), taps, options)

    def _releases(self, data: FederatedData, arm: TrainedArm) -> dict[int, Row]:
        """Measure what each tier puts on the wire for the first victims."""
        images = data.pool.images[data.parts.victims]
        return {tier: measure_release(arm, tier, images) for tier in arm.models.used()}

    def _measure(self, backend: Backend) -> None:
        self._usage = {
            name: {"name": name, "cpu_s": usage.cpu_s, "peak_rss_mb": usage.peak_rss_mb}
            for name, usage in backend.usage().items()
        }
        self._restarts, self._job_restarts = backend.restarts, backend.job_restarts

    # Writing -----------------------------------------------------------------------------------

    def _write(self, status: str) -> Path:
        assert self._inputs is not None
        with self.progress.phase("write results and report"):
            finished = [
                self._finished[arm.name] for arm in self.scenario.arms if arm.name in self._finished
            ]
            for table in TABLES:
                rows = [row for _, tables, _ in finished for row in tables[table]]
                write_table(self.folder / f"{table}.parquet", table, rows)
            samples: dict[str, NDArray[np.uint8]] = {}
            for _, _, arrays in finished:
                samples |= arrays
            write_samples(self.folder / "reconstructions" / "samples.npz", samples)
            attacks = [row for _, tables, _ in finished for row in tables["attacks"]]
            write_json(self.folder / "results.json", self._summary(status, finished, attacks))
            self._write_host()
            report = build_report(self.folder)
        self._write_host()  # once more, with the time that the report took
        return report

    def _summary(
        self, status: str, finished: Sequence[tuple[Row, Any, Any]], rows: Sequence[Row]
    ) -> Row:
        assert self._inputs is not None
        data, fleet = self._inputs.data, self._inputs.fleet
        entries = [dict(entry) for entry, _, _ in finished]
        checks = [*self._sanity, *(check for entry in entries for check in entry.pop("checks"))]
        return {
            "schema_version": SCHEMA_VERSION,
            "status": status,
            "testbed_version": VERSION,
            "scenario": {
                "name": self.scenario.name,
                "seed": self.scenario.seed,
                "description": self.scenario.description,
            },
            "data": _data_facts(data),
            "fleet": {
                "size": len(fleet),
                "device_classes": [
                    {
                        "device_class": group.device_class,
                        "devices": group.devices,
                        "models": group.models,
                        "links": group.links,
                    }
                    for group in fleet.composition()
                ],
            },
            "arms": entries,
            "comparisons": compare_arms(self.scenario, entries, rows),
            "self_checks": checks,
        }

    def _write_host(self) -> None:
        packages = ("flwr", "torch", "ray", "numpy", "flwr-datasets", "datasets", "pyarrow")
        write_json(
            self.folder / "host.json",
            {
                "versions": {"python": platform.python_version()}
                | {name: importlib.metadata.version(name) for name in packages},
                "cores": os.cpu_count(),
                "phases": [
                    {"name": name, "wall_s": wall_s} for name, wall_s in self.progress.phases
                ],
                "total_wall_s": self.progress.total_s,
                "processes": list(self._usage.values()),
                "reference_rate": self._reference,
                "attacks": self._attack_seconds,
                "second_estimates": self._second_estimates,
                "models": self._models,
                "backend": self.scenario.engine.backend,
                "hosts": self.hosts,
                "host_restarts": self._restarts,
                "adversary_restarts": self._job_restarts,
                "torch_threads": torch.get_num_threads(),
                "finished_at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            },
        )


def device_costs(inputs: RunInputs, models: ArmModels) -> DeviceCosts:
    """Return what an arm's front-ends cost on every device of the fleet."""
    scenario = inputs.scenario
    tiers = [
        TierCosts.of(
            inputs.fleet,
            tier.edge_stats,
            tier.device_spec.front_end.name,
            scenario.training.batch_size,
            scenario.seed,
            tier.adversary_stats,
        )
        for tier in models.tiers
    ]
    return DeviceCosts(inputs.fleet, tiers, models.tier_of)


def arm_models(inputs: RunInputs, arm: Arm) -> ArmModels:
    """Build the halves of an arm for a setting's data.

    Raises
    ------
    UserError : the front-end does not work at this image size or with this defence.
    """
    pool = inputs.data.pool
    normalisation = (
        tuple(float(value) for value in inputs.data.mean),
        tuple(float(value) for value in inputs.data.std),
    )
    return build_models(
        inputs.scenario, arm, inputs.fleet, pool.image_shape, pool.num_classes, normalisation
    )


def _data_facts(data: FederatedData) -> Row:
    pool, parts = data.pool, data.parts
    return {
        "name": pool.name,
        "image_shape": list(pool.images.shape[1:]),
        "num_classes": len(pool.label_names),
        "label_names": list(pool.label_names),
        "has_persons": pool.persons is not None,
        "source": pool.source,
        "images": {
            name: len(getattr(parts, name))
            for name in ("training", "validation", "auxiliary", "auxiliary_validation", "victims")
        },
        "majority_class_accuracy": data.majority_class_accuracy,
    }
