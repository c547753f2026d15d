"""State shared by the cases of the campaign: scenario, reference results, random moments."""

import json
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults.runs import Ended, Watched, results_of, start

INLINE = ("--set", "engine.backend=inline")
LONGEST_RUN_S = 400.0  # of an uninterrupted one
SHORTEST_RUN_S = 20.0  # for limits: a quick machine may hesitate as well


@dataclass(frozen=True)
class Outcome:
    """One line of the table.

    Attributes
    ----------
    equal : whether the results equal those of an uninterrupted run; None if there are none.
    left : names of the files and folders that were left behind.
    """

    fault: str
    times: int
    expected: str
    observed: str
    passed: bool
    equal: bool | None
    processes_left: int
    left: tuple[str, ...]
    wall_s: float
    limit_s: float = 0.0


@dataclass(frozen=True)
class Case:
    """A fault, its number of repeats in the full campaign, and its time limit.

    Attributes
    ----------
    limit_runs : the limit as a multiple of the time of an uninterrupted run on this machine.
    """

    inject: "Callable[[Campaign, int], Outcome]"
    repeats: int
    limit_runs: float


@dataclass(frozen=True)
class Moment:
    """A moment of a run: a time after the start of a phase, or its end if that comes first."""

    phase: str
    after_s: float


@dataclass
class Campaign:
    """State shared by all cases.

    Attributes
    ----------
    folder : working folder.
    reference : the results folder of an uninterrupted run.
    results : the bytes of its results.
    phases : names and durations in seconds of its phases, in order.
    run_s : duration of an uninterrupted run on this machine.
    deadline : of the current case, on the monotonic clock.
    """

    scenario: Path
    folder: Path
    dice: random.Random
    reference: Path = Path()
    results: dict[str, bytes] = field(default_factory=dict)
    phases: Sequence[tuple[str, float]] = ()
    run_s: float = LONGEST_RUN_S
    deadline: float = float("inf")
    _numbers: Iterator[int] = field(default_factory=lambda: iter(range(1_000_000)))

    def new_folder(self) -> Path:
        """Return a path for another run."""
        return self.folder / f"run{next(self._numbers)}"

    def refer_to(self, folder: Path) -> None:
        """Make this uninterrupted run the reference."""
        self.reference, self.results = folder, results_of(folder)
        self.phases = phases_of(folder)

    def start(self, folder: Path, extra: Sequence[str] = (), **options: Any) -> Watched:
        """Start a run whose limit is the remaining time of the case."""
        limit_s = self.deadline - time.monotonic()
        return start(self.scenario, folder, extra, limit_s=limit_s, **options)

    def run(self, folder: Path, extra: Sequence[str] = (), **options: Any) -> Ended:
        """Start a run and wait for its end."""
        return self.start(folder, extra, **options).end()

    def equal(self, folder: Path) -> bool:
        """Say whether a run's results equal the reference byte for byte."""
        return bool(self.results) and results_of(folder) == self.results

    # Moments -----------------------------------------------------------------------------------

    def random_moment(self, among: Sequence[str]) -> Moment:
        """Draw a moment within these phases, in proportion to their durations."""
        phases = [(name, wall_s) for name, wall_s in self.phases if name in among]
        names, seconds = zip(*phases, strict=True)
        (name,) = self.dice.choices(names, weights=seconds)
        return Moment(name, self.dice.uniform(0.0, dict(phases)[name]))

    def reach(self, watched: Watched, moment: Moment, present: Sequence[str] = ()) -> bool:
        """Wait for a moment; return False if the run ended before.

        Parameters
        ----------
        present : the phases of the run, if it is a resumed one.
        """
        names = list(present or self.names)
        before = names[: names.index(moment.phase)][-1:]
        if not watched.wait_until(lambda: set(before) <= set(watched.phases_done())):
            return False
        due = time.monotonic() + moment.after_s
        return watched.wait_until(
            lambda: time.monotonic() >= due or moment.phase in watched.phases_done()
        )

    def phase_now(self, watched: Watched, present: Sequence[str] = ()) -> str:
        """Return the phase that a run is in: the one after those that are done."""
        names, done = list(present or self.names), watched.phases_done()
        place = names.index(done[-1]) + 1 if done and done[-1] in names else 0
        return names[min(place, len(names) - 1)]

    @property
    def names(self) -> list[str]:
        """The phases of the reference run."""
        return [name for name, _ in self.phases]

    def in_arms(self) -> list[str]:
        """Return the phases of the arms, in which the hosts are in use."""
        return [name for name in self.names if name.split()[0] in ("train", "serve", "attack")]

    # Outcomes ----------------------------------------------------------------------------------

    def outcome(
        self,
        fault: str,
        times: int,
        expected: str,
        observed: str,
        passed: bool,
        equal: bool | None,
        ended: Sequence[Ended],
    ) -> Outcome:
        """Sum up the runs of a case."""
        processes = sum(item.processes_left for item in ended)
        left = tuple(name for item in ended for name in item.left)
        passed = passed and equal is not False and not processes and not left
        wall_s = sum(item.wall_s for item in ended)
        return Outcome(fault, times, expected, observed, passed, equal, processes, left, wall_s)


def phases_of(folder: Path) -> list[tuple[str, float]]:
    """Return the phases of a finished run and their durations in seconds."""
    host = json.loads((folder / "host.json").read_text(encoding="utf-8"))
    return [(item["name"], item["wall_s"]) for item in host["phases"]]


def rounds_done(folder: Path, arm: str = "*") -> int:
    """Return the number of rounds that a run has checkpoints of, in one arm or in all."""
    newest: dict[str, int] = {}
    for path in folder.glob(f"checkpoints/{arm}/round-*.safetensors"):
        match = re.fullmatch(r"round-(\d+)", path.stem)
        if match:
            newest[path.parent.name] = max(newest.get(path.parent.name, 0), int(match.group(1)))
    return sum(newest.values())


def counted(names: Sequence[str]) -> str:
    """Return the names with their counts, in order of first appearance."""
    found = {name: names.count(name) for name in names}
    return ", ".join(f"{number} in “{name}”" for name, number in found.items())


def short(text: str, most: int = 140) -> str:
    """Return a text that fits a cell of the table."""
    return text if len(text) <= most else f"{text[:most]}…"
