"""The Python API: run a scenario from a script or a notebook, and read the results as tables.

``python -m testbed.run`` runs the same code, with the same results and the same errors: the
sentence that the command prints is the text of the exception here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from testbed.core.errors import UserError
from testbed.core.process import Interrupts, stop_telemetry
from testbed.pages.html import render
from testbed.report.tables.headline import headline_table
from testbed.results.columns import TABLES
from testbed.results.findings import arm_figures
from testbed.results.reading import read_arrow, read_json, read_results
from testbed.results.writing import RESOLVED
from testbed.scenario.loading import load_scenario, parse_overrides, read_tree, resolve
from testbed.scenario.schema import Scenario

if TYPE_CHECKING:
    from testbed.core.progress import Display

Overrides = Mapping[str, Any] | Sequence[str]


@dataclass(frozen=True)
class RunResult:
    """A results folder, whose files are read on first use.

    Tables are ``pyarrow.Table``; ``.to_pandas()`` converts one to a data frame. docs/results.md
    lists columns and units.

    Attributes
    ----------
    folder : the results folder.
    """

    folder: Path

    @cached_property
    def results(self) -> dict[str, Any]:
        """``results.json``: everything that does not depend on the host."""
        tree: dict[str, Any] = read_json(self.folder / "results.json")
        return tree

    @cached_property
    def host(self) -> dict[str, Any]:
        """``host.json``: wall time, memory and library versions of the run."""
        tree: dict[str, Any] = read_json(self.folder / "host.json")
        return tree

    @cached_property
    def scenario(self) -> Scenario:
        """The scenario with every default filled in."""
        return load_scenario(self.folder / RESOLVED)

    @property
    def complete(self) -> bool:
        """Whether the run is complete."""
        return bool(self.results["status"] == "complete")

    @property
    def report(self) -> Path:
        """The path of ``report.html``."""
        return self.folder / "report.html"

    @cached_property
    def headline(self) -> pa.Table:
        """One row per arm: accuracy, best attack, latency, energy, bytes."""
        return pa.Table.from_pylist(arm_figures(read_results(self.folder).arms))

    @cached_property
    def tables(self) -> dict[str, pa.Table]:
        """The four tables by name: rounds, devices, requests, attacks."""
        return {name: read_arrow(self.folder, name) for name in TABLES}

    @property
    def rounds(self) -> pa.Table:
        """One row per arm and round, and per epoch of a provider."""
        return self.tables["rounds"]

    @property
    def devices(self) -> pa.Table:
        """One row per arm and device."""
        return self.tables["devices"]

    @property
    def requests(self) -> pa.Table:
        """One row per arm and request."""
        return self.tables["requests"]

    @property
    def attacks(self) -> pa.Table:
        """One row per arm, adversary, attack and victim."""
        return self.tables["attacks"]

    def _repr_html_(self) -> str:
        """Return the comparison of the arms, for notebooks."""
        table = headline_table(read_results(self.folder))
        return render("testbed.report", "notebook.html.j2", table=table, report=self.report)


def run_scenario(
    scenario: str | Path | Mapping[str, Any] | Scenario,
    *,
    overrides: Overrides = (),
    out: str | Path | None = None,
    resume: bool = False,
    force: bool = False,
    progress: "bool | Display" = True,
) -> RunResult:
    """Run one scenario and return its results.

    Parameters
    ----------
    scenario : a scenario file, a mapping with its contents, or a validated scenario.
    overrides : keys to change: a mapping of key paths to values (``{"fleet.size": 500}``), or
        texts as on the command line (``["fleet.size=500"]``).
    out : the results folder; ``results/NAME`` by default.
    resume : continue the interrupted run in ``out``.
    force : replace the results in ``out``.
    progress : True shows the phases on standard error, False shows nothing; or an object that shows
        them (``testbed.core.progress.Display``).

    Raises
    ------
    UserError : bad input; nothing has been overwritten.
    HostError : a host process died; the run can be resumed.
    KeyboardInterrupt : the results so far are in the folder, and the run can be resumed.
    """
    stop_telemetry()
    from testbed.engine.execution import default_folder, execute

    chosen = _resolve(scenario, overrides)
    folder = Path(out) if out is not None else default_folder(chosen)
    with Interrupts() as interrupts:
        options: dict[str, Any] = {"force": force, "resume": resume}
        if progress is True:
            from testbed.cli.display import RichDisplay

            with RichDisplay() as display:
                execute(chosen, folder, display, lambda: interrupts.requested, **options)
        else:
            execute(chosen, folder, progress or None, lambda: interrupts.requested, **options)
    return RunResult(folder)


def load_run(folder: str | Path) -> RunResult:
    """Return the results of a finished or interrupted run.

    Raises
    ------
    UserError : the folder is missing, damaged or of another schema version.
    """
    read_results(Path(folder))
    return RunResult(Path(folder))


def _resolve(scenario: str | Path | Mapping[str, Any] | Scenario, overrides: Overrides) -> Scenario:
    changes = changes_of(overrides)
    label = "overrides: " if isinstance(overrides, Mapping) else "--set "
    if isinstance(scenario, str | Path):
        return resolve(read_tree(Path(scenario)), changes, str(scenario), label)
    if isinstance(scenario, Scenario):
        return resolve(scenario.model_dump(mode="json"), changes, "scenario", label)
    if isinstance(scenario, Mapping):
        return resolve(scenario, changes, "scenario", label)
    raise UserError(
        f"scenario: give a file or a mapping of sections, not {type(scenario).__name__}"
    )


def changes_of(overrides: Overrides) -> list[tuple[str, Any]]:
    """Return overrides in either form as key paths and values.

    Raises
    ------
    UserError : a key path or a text is malformed.
    """
    if isinstance(overrides, str):
        raise UserError("overrides: give a list of KEY.PATH=VALUE texts or a mapping, not one text")
    if not isinstance(overrides, Mapping):
        return parse_overrides(overrides)
    for path in overrides:
        if not isinstance(path, str) or not all(path.split(".")):
            raise UserError(f"overrides: '{path}' is not a key path such as fleet.size")
    return list(overrides.items())
