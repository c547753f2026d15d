"""Runs one scenario into one folder: what the command line, the Python API and sweeps share."""

from collections.abc import Callable
from pathlib import Path

from testbed.core.progress import Display, Progress
from testbed.engine.experiment import run_experiment
from testbed.engine.logs import log_to
from testbed.scenario.schema import Scenario


class RunInterrupted(KeyboardInterrupt):
    """An interrupt that came after the results folder was opened: partial results are in it.

    Attributes
    ----------
    folder : the results folder, which ``resume`` continues.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(f"interrupted: the results so far are in {folder}")
        self.folder = folder


def default_folder(scenario: Scenario) -> Path:
    """Return the results folder of a scenario whose user chose none."""
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
    display : shows the phases; None shows nothing.
    stop_requested : asked between two steps whether to stop.
    force : replace a results folder that exists.
    resume : continue the run whose folder it is.
    ray_address : of a Ray cluster to join; None starts Ray on this machine, for this run.

    Raises
    ------
    UserError : input that a person has to put right; nothing has been overwritten.
    HostError : a host or adversary process died; the run can be resumed.
    RunInterrupted : the partial results have been written.
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
