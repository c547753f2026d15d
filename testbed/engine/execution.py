"""Runs one scenario into one folder, for the command line, the Python API and sweeps."""

from collections.abc import Callable
from pathlib import Path

from testbed.core.progress import Display, Progress
from testbed.engine.experiment import run_experiment
from testbed.engine.logs import log_to
from testbed.scenario.schema import Scenario


class RunInterrupted(KeyboardInterrupt):
    """An interrupt after the results folder was opened: it holds partial results.

    Attributes
    ----------
    folder : the results folder, for ``resume``.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(f"interrupted: the results so far are in {folder}")
        self.folder = folder


def default_folder(scenario: Scenario) -> Path:
    """Return the default results folder of a scenario."""
    return Path("results") / scenario.name


def execute(
    scenario: Scenario,
    folder: Path,
    display: Display | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
    force: bool = False,
    resume: bool = False,
    ray_address: str | None = None,
) -> Path:
    """Run a scenario into a folder, with its log in ``run.log``, and return the report's path.

    Parameters
    ----------
    display : shows the phases; None: no output.
    stop_requested : asked between two steps whether to stop.
    force : replace a results folder that exists.
    resume : continue the run whose folder it is.
    ray_address : Ray cluster to join; None starts Ray on this machine for this run.

    Raises
    ------
    UserError : the input is wrong; nothing was overwritten.
    HostError : a host or adversary process died; the run can be resumed.
    RunInterrupted : the run was interrupted; partial results are written.
    """
    with log_to(folder / "run.log") as log:
        progress = Progress(display, stop_requested)
        try:
            return run_experiment(
                scenario,
                folder,
                progress,
                force=force,
                resume=resume,
                ray_address=ray_address,
                on_open=log.begin,
            )
        except KeyboardInterrupt:
            if not log.begun:
                raise
            raise RunInterrupted(folder) from None
