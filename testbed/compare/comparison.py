"""The comparison of several runs: ``compare`` makes all of it, step by step."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from testbed.compare.analysis.arms import ComparedArm, arms_of, find_reference
from testbed.compare.analysis.comparable import check_comparable, training_differences
from testbed.compare.analysis.estimates import ArmEstimates, measure
from testbed.compare.analysis.groups import CLASS, TIER, Groups, groups_of
from testbed.compare.analysis.matched import Matched, match
from testbed.compare.analysis.pareto import TRADE_OFFS, Front, front_of
from testbed.compare.analysis.request_table import (
    Resamples,
    request_table_of,
    resample,
)
from testbed.compare.analysis.runs import Run, read_run
from testbed.compare.defaults import MAX_ACCURACY_LOSS, RESAMPLES
from testbed.core.errors import UserError
from testbed.privacy.intervals import Interval
from testbed.results.schema import Summary


@dataclass(frozen=True)
class Difference:
    """An arm minus the reference, over the requests and victims that both have."""

    accuracy: Interval
    mse: Interval


@dataclass(frozen=True)
class Comparison:
    """Everything that the outputs show.

    Attributes
    ----------
    measured : the arms, in the order of their first appearance.
    reference : the place of the arm that the others are compared with.
    differences : per arm, None for the reference.
    notes : limits that a reader must know before using the numbers.
    """

    runs: Sequence[Run]
    seeds: list[int]
    resamples: int
    max_accuracy_loss: float
    measured: Sequence[ArmEstimates]
    reference: int
    differences: Sequence[Difference | None]
    fronts: Sequence[Front]
    matched: Sequence[Matched]
    tiers: Sequence[Groups]
    classes: Sequence[Groups]
    notes: Sequence[str]

    @property
    def summary(self) -> Summary:
        """The first run's summary, for what all runs share."""
        return self.runs[0].results.summary

    @property
    def labels(self) -> list[str]:
        """The arms' labels."""
        return [item.arm.label for item in self.measured]

    def front(self, name: str) -> Front:
        """Return the front of a trade by its name."""
        return next(front for front in self.fronts if front.trade_off.name == name)


def compare(
    folders: Sequence[Path],
    reference: str | None = None,
    max_accuracy_loss: float = MAX_ACCURACY_LOSS,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Read the runs and compare their arms.

    Parameters
    ----------
    folders : results folders of complete runs.
    reference : label of the arm to compare with; None: the first undefended one.
    max_accuracy_loss : how far below the reference's accuracy defences are matched, 0 to 1.

    Raises
    ------
    UserError : a folder is unreadable, runs may not be compared, or there is no such reference.
    """
    if not 0.0 <= max_accuracy_loss < 1.0:
        raise UserError(
            f"--max-accuracy-loss {max_accuracy_loss:g}: give a share from 0 to below 1, "
            "such as 0.03 for three points"
        )
    if resamples < 100:
        raise UserError(f"--resamples {resamples}: give at least 100 for meaningful intervals")
    runs = [read_run(folder) for folder in folders]
    check_comparable(runs)
    arms = arms_of(runs)
    place = arms.index(find_reference(arms, reference))
    request_table = request_table_of(runs)
    draws = resample(request_table, resamples)
    measured = [measure(arm, request_table, draws) for arm in arms]
    return Comparison(
        runs=runs,
        seeds=request_table.seeds,
        resamples=resamples,
        max_accuracy_loss=max_accuracy_loss,
        measured=measured,
        reference=place,
        differences=[
            None if item is measured[place] else _difference(item, measured[place], draws)
            for item in measured
        ],
        fronts=[front_of(trade_off, measured) for trade_off in TRADE_OFFS],
        matched=match(measured, place, max_accuracy_loss),
        tiers=groups_of(measured, TIER),
        classes=groups_of(measured, CLASS),
        notes=_notes(runs, arms, request_table.seeds),
    )


def _difference(item: ArmEstimates, other: ArmEstimates, draws: Resamples) -> Difference:
    accuracy = item.correct.minus(other.correct)
    mse = Interval()
    if item.best is not None and other.best is not None:
        column = item.best.scored.column("mse").minus(other.best.scored.column("mse"))
        mse = draws.mean(column, "difference").shown
    return Difference(draws.mean(accuracy, "difference of shares").shown, mse)


def _notes(runs: Sequence[Run], arms: Sequence[ComparedArm], seeds: Sequence[int]) -> list[str]:
    notes = []
    if len(seeds) == 1:
        notes.append(
            f"There is only one seed ({seeds[0]}): intervals cover devices and their images, but "
            "not other trainings, fleets or data splits. Run more seeds."
        )
    else:
        fewest = min(len(arm.members) for arm in arms)
        if fewest < len(seeds):
            fewer = [arm.label for arm in arms if len(arm.members) < len(seeds)]
            notes.append(
                f"Not every arm has all {len(seeds)} seeds: {_listed(fewer)}. Their intervals "
                "cover the seeds they have."
            )
        if len(seeds) < 5:
            notes.append(
                f"Intervals are over {len(seeds)} seeds, by Student's t with {len(seeds) - 1} "
                f"degree{'s' if len(seeds) > 2 else ''} of freedom: with fewer than 5 seeds they "
                "are wide, because so few seeds do not show how far trainings differ."
            )
    changed = training_differences(runs)
    if changed:
        notes.append(
            f"The runs were trained differently ({_listed(changed)} differs): arms of the same "
            "name and different training are separate arms."
        )
    if (runs[0].scenario.get("serving") or {}).get("cloud_service") == "recorded":
        notes.append(
            "The cloud's service times were measured on the machines of the runs: latencies depend "
            "on the machine."
        )
    versions = sorted({run.results.summary.testbed_version for run in runs})
    if len(versions) > 1:
        notes.append(f"The runs were made by different versions of the testbed: {versions}.")
    checks = [
        f"{check.name} ({run.name})"
        for run in runs
        for check in run.results.summary.self_checks
        if check.passed is False
    ]
    warnings = [f"{text} ({run.name})" for run in runs for text in run.results.summary.warnings]
    if warnings:
        notes.append(f"Runs warn of their own figures: {_listed(warnings)}.")
    if checks:
        notes.append(f"A self-check failed: {_listed(checks)}.")
    return notes


def _listed(names: Sequence[str], most: int = 4) -> str:
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
