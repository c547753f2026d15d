"""Whole runs in the test's own process: run a scenario, read all its results, interrupt it."""

import copy
import json

import numpy as np
import pytest

from testbed.core.progress import Display, Progress
from testbed.engine.experiment import run_experiment
from testbed.results.columns import TABLES
from testbed.scenario.loading import validate_scenario


def run(tree, folder, display=None, resume=False, figures=False):
    """Run a scenario and return its results folder.

    Figures are drawn only where a test looks at the report: they take a quarter of a small run.
    """
    scenario = validate_scenario(copy.deepcopy(tree), "test")
    with pytest.MonkeyPatch.context() as patch:
        if not figures:
            patch.setattr("testbed.report.build.draw_all", lambda results: {})
        run_experiment(scenario, folder, Progress(display), resume=resume)
    return folder


def results_of(folder):
    """Return the tree of ``results.json``."""
    return json.loads((folder / "results.json").read_text())


def everything(folder):
    """Return the bytes of all results, without what is measured on the host."""
    names = ["results.json", *(f"{name}.parquet" for name in TABLES)]
    results = {name: (folder / name).read_bytes() for name in names}
    samples = folder / "reconstructions" / "samples.npz"
    if samples.exists():
        with np.load(samples) as archive:
            results |= {name: archive[name].tobytes() for name in archive.files}
    return results


class StopAt(Display):
    """A display that presses Ctrl-C once a phase has ended this many steps; at 0, as it begins."""

    def __init__(self, phase, steps):
        self.wanted, self.left, self.phase = phase, steps, ""

    def begin(self, phase, steps):
        self.phase = phase
        self._stop_if_due()

    def advance(self, steps, note):
        if steps and note and self.phase == self.wanted:
            self.left -= 1
            self._stop_if_due()

    def _stop_if_due(self):
        if self.phase == self.wanted and self.left == 0:
            self.left = -1  # only once
            raise KeyboardInterrupt
