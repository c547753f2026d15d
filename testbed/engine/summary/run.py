"""What a run has produced so far: stores finished arms and writes the results folder."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from server.strategies import fewest_replies
from testbed.core.files import write_json
from testbed.core.progress import Progress
from testbed.core.project import VERSION
from testbed.core.registries import STRATEGIES
from testbed.data.federated import FederatedData
from testbed.engine.attacking.attacks import AttackResults
from testbed.engine.attacking.leakage import Release
from testbed.engine.serving.serve import ServedArm
from testbed.engine.setting.run_context import RunContext, RunInputs
from testbed.engine.summary.arms import arm_result
from testbed.engine.summary.comparisons import compare_arms
from testbed.engine.summary.devices import device_columns
from testbed.engine.summary.host_facts import HostMeter
from testbed.engine.summary.self_checks import self_checks
from testbed.engine.training.fleet import TrainedArm
from testbed.report.build import build_report
from testbed.results.columns import Record, TableName
from testbed.results.schema import (
    SCHEMA_VERSION,
    DataFacts,
    FleetClass,
    FleetFacts,
    ImageCounts,
    Leakage,
    ScenarioFacts,
    SelfCheck,
    Summary,
)
from testbed.results.writing import (
    DEVICES,
    IN_ROWS,
    FinishedArm,
    read_arm,
    write_arm,
    write_devices,
    write_samples,
    write_table,
)
from testbed.scenario.schema import DataSection, Scenario


class RunRecord:
    """The results of a run.

    Attributes
    ----------
    host : what the run costs this host.
    finished : the finished arms by name.
    """

    def __init__(
        self, inputs: RunInputs, folder: Path, progress: Progress, sanity: Sequence[SelfCheck]
    ) -> None:
        self.host = HostMeter()
        self.finished: dict[str, FinishedArm] = {}
        self._inputs = inputs
        self._folder = folder
        self._progress = progress
        self._sanity = sanity

    def load_finished_arms(self) -> None:
        """Read the arms that the interrupted run in this folder finished."""
        for arm in self._inputs.scenario.arms:
            stored = read_arm(self._arm_folder(arm.name), self._progress.say)
            if stored is not None:
                self.finished[arm.name] = stored

    def finish_arm(
        self,
        run_context: RunContext,
        arm: TrainedArm,
        served: ServedArm,
        measured: tuple[Mapping[int, Leakage], Mapping[int, Release]],
        attacked: AttackResults,
    ) -> None:
        """Summarise an arm and store it.

        Parameters
        ----------
        measured : leakage of each tier's features, and what each tier puts on the wire.
        """
        devices = device_columns(run_context, arm, served)
        tables: dict[TableName, list[Record]] = {
            "rounds": arm.rounds,
            "requests": served.rows,
            "attacks": attacked.rows,
        }
        result = arm_result(run_context, arm, served, devices, measured, attacked)
        checks = self_checks(arm, served, attacked, self._inputs)
        folder = self._arm_folder(arm.models.arm)
        kept = FinishedArm(result, checks, tables, attacked.samples, devices.table())
        write_arm(folder, kept)
        # Read it back, so that a resumed run writes exactly what this one writes.
        stored = read_arm(folder)
        assert stored is not None
        self.finished[arm.models.arm] = stored
        self.host.attacks += attacked.costs
        self.host.measure_usage(run_context.backend)

    def write(self, status: Literal["complete", "interrupted"]) -> Path:
        """Write the results of all finished arms and the report, and return the report's path."""
        scenario = self._inputs.scenario
        with self._progress.phase("write results and report"):
            names = [arm.name for arm in scenario.arms if arm.name in self.finished]
            finished = [self.finished[name] for name in names]
            tables = {
                table: [row for arm in finished for row in arm.tables[table]] for table in IN_ROWS
            }
            for table, rows in tables.items():
                write_table(self._folder / f"{table}.parquet", table, rows)
            write_devices(self._folder / DEVICES, [arm.devices for arm in finished])
            samples = {name: image for arm in finished for name, image in arm.samples.items()}
            write_samples(self._folder / "reconstructions" / "samples.npz", samples)
            summary = self._summary(status, finished, tables["attacks"])
            write_json(self._folder / "results.json", summary.tree())
            self._write_host()
            report = build_report(self._folder)
        self._write_host()  # again, with the time that the report took
        return report

    def _arm_folder(self, arm: str) -> Path:
        return self._folder / "checkpoints" / arm

    def _write_host(self) -> None:
        self.host.write(self._folder / "host.json", self._inputs.scenario, self._progress)

    def _summary(
        self,
        status: Literal["complete", "interrupted"],
        finished: Sequence[FinishedArm],
        attacks: Sequence[Record],
    ) -> Summary:
        scenario, fleet = self._inputs.scenario, self._inputs.fleet
        arms = [arm.result for arm in finished]
        return Summary(
            schema_version=SCHEMA_VERSION,
            status=status,
            testbed_version=VERSION,
            warnings=[
                *self._inputs.warnings,
                *(text for arm in finished for text in _unused_updates(arm, scenario)),
            ],
            scenario=ScenarioFacts(
                name=scenario.name, seed=scenario.seed, description=scenario.description
            ),
            data=_data_facts(self._inputs.data, scenario.data),
            fleet=FleetFacts(
                size=len(fleet),
                device_classes=[FleetClass(**asdict(group)) for group in fleet.composition()],
            ),
            arms=arms,
            comparisons=compare_arms(scenario, arms, attacks, self._inputs.data.pool.persons),
            self_checks=[*self._sanity, *(check for arm in finished for check in arm.checks)],
        )


def _unused_updates(arm: FinishedArm, scenario: Scenario) -> list[str]:
    """Return a warning where rounds had too few updates for the strategy."""
    rounds = [row for row in arm.tables["rounds"] if row["protocol"] == "split_federated"]
    affected = sum(1 for row in rounds if row["unused"])
    if not affected:
        return []
    strategy = scenario.training.strategy
    needed = fewest_replies(STRATEGIES.create(strategy.name, strategy.options))
    return [
        f"arm {arm.result.name}: in {affected} of {len(rounds)} rounds fewer than {needed} devices "
        f"of a tier sent updates, as {strategy.name} needs; the front-end kept its weights, and "
        f"{sum(row['unused'] for row in rounds)} updates were not used"
    ]


def _data_facts(data: FederatedData, section: DataSection) -> DataFacts:
    pool = data.pool
    return DataFacts(
        name=pool.name,
        image_shape=list(pool.images.shape[1:]),
        num_classes=len(pool.label_names),
        label_names=list(pool.label_names),
        has_persons=pool.persons is not None,
        source=pool.source,
        notes=list(data.notes),
        images=ImageCounts(**data.parts.sizes()),
        majority_class_accuracy=data.majority_class_accuracy,
        serving_images=section.serving_images,
        victims_of_own_classes=data.victims_of_own_classes,
    )
