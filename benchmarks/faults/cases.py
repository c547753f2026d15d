"""The faults of the campaign: what is done to a run, what should happen, and what did."""

import json
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from faults.devices import BAD_DEVICES
from faults.runs import Ended, Watched, half_written, results_of, run, start

INLINE = ("--set", "engine.backend=inline")
FULL_AT = 12_000  # bytes: not even a checkpoint, nor the images of the report


@dataclass(frozen=True)
class Outcome:
    """One line of the table."""

    fault: str
    times: int
    expected: str
    observed: str
    passed: bool
    equal: bool | None
    processes_left: int
    folders_left: int
    wall_s: float


@dataclass
class Campaign:
    """What the cases share: the scenario, a place to work, the uninterrupted results, the dice."""

    scenario: Path
    folder: Path
    dice: random.Random
    results: dict[str, bytes] = field(default_factory=dict)
    baseline_s: float = 0.0
    _numbers: Iterator[int] = field(default_factory=lambda: iter(range(1_000_000)))

    def new_folder(self) -> Path:
        """Return a path for another run."""
        return self.folder / f"run{next(self._numbers)}"

    def equal(self, folder: Path) -> bool:
        """Say whether a run's results are those of the uninterrupted one, byte for byte."""
        return results_of(folder) == self.results

    def outcome(
        self,
        fault: str,
        times: int,
        expected: str,
        observed: str,
        passed: bool,
        equal: bool | None,
        ended: list[Ended],
    ) -> Outcome:
        """Sum up the runs of a case."""
        left = [(item.processes_left, item.folders_left) for item in ended]
        processes, folders = (sum(column) for column in zip(*left, strict=True))
        passed = passed and equal is not False and not processes and not folders
        wall_s = sum(item.wall_s for item in ended)
        return Outcome(fault, times, expected, observed, passed, equal, processes, folders, wall_s)


def rounds_done(folder: Path) -> int:
    """Return how many rounds of all arms a run has checkpoints of."""
    names = [path.stem for path in folder.glob("checkpoints/*/round-*.safetensors")]
    newest: dict[str, int] = {}
    for path in folder.glob("checkpoints/*/round-*.safetensors"):
        arm, number = path.parent.name, int(path.stem.removeprefix("round-"))
        newest[arm] = max(newest.get(arm, 0), number)
    return sum(newest.values()) if names else 0


def in_training(watched: Watched, folder: Path, rounds: int = 1) -> bool:
    """Wait until a run is in the middle of its training."""
    return watched.wait_until(lambda: rounds_done(folder) >= rounds)


def _clean(ended: Ended) -> bool:
    return "Traceback" not in ended.errors


def uninterrupted(campaign: Campaign, repeats: int) -> Outcome:
    """Measure what every other run has to equal."""
    folder = campaign.new_folder()
    ended = run(campaign.scenario, folder)
    campaign.results, campaign.baseline_s = results_of(folder), ended.wall_s
    inline = campaign.new_folder()
    other = run(campaign.scenario, inline, INLINE)
    codes = {ended.exit_code, other.exit_code}
    return campaign.outcome(
        "none; on two hosts, and in one process",
        1,
        "complete, equal",
        f"exit code {', '.join(map(str, sorted(codes)))}",
        codes == {0},
        campaign.equal(inline),
        [ended, other],
    )


def hosts_killed(campaign: Campaign, repeats: int) -> Outcome:
    """Kill a random host at a random moment of a round, again and again within one run."""
    folder, kills = campaign.new_folder(), 0
    watched = start(campaign.scenario, folder)
    while kills < repeats and in_training(watched, folder, rounds_done(folder) + 1):
        time.sleep(campaign.dice.uniform(0.0, 0.5))
        hosts = sorted(watched.children("_HostActor"), key=lambda process: process.pid)
        if hosts and watched.running():
            campaign.dice.choice(hosts).kill()
            kills += 1
    ended = watched.end()
    restarts = _restarts(folder)
    return campaign.outcome(
        "host killed (SIGKILL), all in one run",
        kills,
        "replaced, its devices' messages repeated; complete",
        f"exit code {ended.exit_code}, {restarts} hosts replaced",
        ended.exit_code == 0 and kills == repeats and restarts >= 1,
        campaign.equal(folder),
        [ended],
    )


def _restarts(folder: Path) -> int:
    path = folder / "host.json"
    return int(json.loads(path.read_text())["host_restarts"]) if path.is_file() else 0


def _ray_killed(name: str) -> Callable[[Campaign, int], Outcome]:
    def killed(campaign: Campaign, repeats: int) -> Outcome:
        ended, equal, seconds = [], True, []
        for _ in range(repeats):
            folder = campaign.new_folder()
            watched = start(campaign.scenario, folder)
            in_training(watched, folder)
            (process,) = watched.children(name)
            process.kill()
            killed_at = time.monotonic() - watched.began
            ended.append(watched.end())
            seconds.append(ended[-1].wall_s - killed_at)
            ended.append(run(campaign.scenario, folder, ("--resume", *INLINE)))
            equal = equal and campaign.equal(folder)
        stopped, resumed = ended[::2], ended[1::2]
        good = all(
            item.exit_code == 1 and "--resume" in item.last_words and _clean(item)
            for item in stopped
        )
        return campaign.outcome(
            f"Ray's {name} killed",
            repeats,
            "stops with one sentence and exit code 1; --resume completes",
            f"exit code {stopped[0].exit_code} after {max(seconds):.0f} s at most: "
            f"“{_short(stopped[0].last_words)}”",
            good and all(item.exit_code == 0 for item in resumed),
            equal,
            ended,
        )

    return killed


def driver_killed(campaign: Campaign, repeats: int, resume: tuple[str, ...] = ()) -> Outcome:
    """Kill the run itself at random moments, and resume until it completes."""
    ended, equal, completed, kills, interrupted = [], True, 0, 0, False
    folder = campaign.new_folder()
    while kills < repeats or interrupted:
        known = (folder / "scenario.resolved.yaml").exists()
        extra = ("--resume", *resume) if known else ()
        watched = start(campaign.scenario, folder, extra)
        interrupted = False
        if kills < repeats:
            moment_s = campaign.dice.uniform(0.3, 0.95) * campaign.baseline_s
            while time.monotonic() - watched.began < moment_s and watched.running():
                time.sleep(0.02)
            if watched.running():
                watched.send(signal.SIGKILL)
                kills, interrupted = kills + 1, True
        ended.append(watched.end())
        if not interrupted:
            completed += ended[-1].exit_code == 0
            equal = equal and campaign.equal(folder)
            folder = campaign.new_folder()
    return campaign.outcome(
        "the run itself killed (SIGKILL) at a random moment",
        kills,
        "--resume completes",
        f"{completed} runs completed",
        completed > 0 and all(item.exit_code in (0, -signal.SIGKILL) for item in ended),
        equal,
        ended,
    )


def terminated(campaign: Campaign, repeats: int) -> Outcome:
    """Ask the run to end, damage its newest checkpoint, and resume."""
    ended, equal, said = [], True, True
    for _ in range(repeats):
        folder = campaign.new_folder()
        watched = start(campaign.scenario, folder)
        in_training(watched, folder, 3)
        watched.send(signal.SIGTERM)
        ended.append(watched.end())
        newest = max(folder.glob("checkpoints/*/round-*"), key=lambda path: path.stat().st_mtime)
        content = newest.read_bytes()
        newest.write_bytes(content[: campaign.dice.randrange(len(content))])
        ended.append(run(campaign.scenario, folder, ("--resume", *INLINE)))
        said = said and "is damaged" in ended[-1].errors
        equal = equal and campaign.equal(folder)
    return campaign.outcome(
        "SIGTERM, then the newest checkpoint cut off",
        repeats,
        "exit code 130; --resume says so, falls back and completes",
        f"exit codes {ended[0].exit_code} and {ended[1].exit_code}"
        + (", damage named" if said else ", damage not named"),
        said and all(item.exit_code in (0, 130) for item in ended),
        equal,
        ended,
    )


def read_only(campaign: Campaign, repeats: int) -> Outcome:
    """Write into a folder that may only be read."""
    closed = campaign.new_folder()
    closed.mkdir()
    closed.chmod(0o555)
    folder = closed / "results"
    ended = start(campaign.scenario, folder, INLINE, obeys_permissions=True).end()
    closed.chmod(0o755)
    return campaign.outcome(
        "read-only output",
        1,
        "exit code 2 and one sentence; nothing written",
        f"exit code {ended.exit_code}: “{_short(ended.last_words)}”",
        ended.exit_code == 2 and not folder.exists() and _clean(ended),
        None,
        [ended],
    )


def disk_full(campaign: Campaign, repeats: int) -> Outcome:
    """Let no file grow beyond a size: while training, and when the report is due."""
    folder = campaign.new_folder()
    ended, left = [], []
    for extra in (INLINE, ("--resume", *INLINE)):
        ended.append(start(campaign.scenario, folder, extra, largest_file_bytes=FULL_AT).end())
        left += half_written(folder)
        ended.append(run(campaign.scenario, folder, ("--resume", *INLINE)))
        for name in ("results.json", "report.html", "reconstructions/samples.npz"):
            if extra == INLINE:  # as if the run had stopped just before writing them
                (folder / name).unlink()
    stopped = ended[::2]
    good = all(item.exit_code in (1, 2) and _clean(item) for item in stopped) and not left
    return campaign.outcome(
        "disk full, at a checkpoint and at the report",
        len(stopped),
        "stops with one sentence, no half file; --resume completes",
        f"exit codes {', '.join(str(item.exit_code) for item in stopped)}, {len(left)} half files: "
        f"“{_short(stopped[0].last_words)}”",
        good and all(item.exit_code == 0 for item in ended[1::2]),
        campaign.equal(folder),
        ended,
    )


def bad_devices(campaign: Campaign, repeats: int) -> Outcome:
    """Let some of the devices crash, and others send NaN, wrong shapes and far too much."""
    folder = campaign.new_folder()
    everyone = ("--set", "training.cohort_size=8", "--set", "fleet.availability=always")
    ended = start(campaign.scenario, folder, (*INLINE, *everyone), module="faults.devices").end()
    summary = json.loads((folder / "results.json").read_text())
    arms = summary["arms"]
    named = all(
        any(f"device {item.device}: " in error and item.said in error for error in arm["errors"])
        for item in BAD_DEVICES
        if item.said
        for arm in arms
    )
    failed = sum(arm["training"]["failed"] for arm in arms)
    unanswered = sum(arm["serving"]["failed"] for arm in arms)
    return campaign.outcome(
        f"bad devices: {'; '.join(item.kind for item in BAD_DEVICES)}",
        len(BAD_DEVICES),
        "each counted as failed, crashes named in the report; complete",
        f"exit code {ended.exit_code}, {failed} device-rounds and {unanswered} requests failed",
        ended.exit_code == 0 and named and failed > 0 and unanswered > 0,
        None,
        [ended],
    )


def _short(text: str, most: int = 140) -> str:
    return text if len(text) <= most else f"{text[:most]}…"


CASES: dict[str, tuple[Callable[[Campaign, int], Outcome], int]] = {
    "hosts": (hosts_killed, 24),
    "raylet": (_ray_killed("raylet"), 1),
    "gcs": (_ray_killed("gcs_server"), 1),
    "driver": (driver_killed, 10),
    "checkpoint": (terminated, 1),
    "read-only": (read_only, 1),
    "disk": (disk_full, 1),
    "devices": (bad_devices, 1),
}
"""By name: the case, and how often the full campaign repeats it."""
