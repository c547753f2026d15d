"""Processes killed at random moments: hosts, Ray's own, and the run itself."""

import json
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from faults.campaign import INLINE, Campaign, Outcome, counted, rounds_done, short
from faults.runs import Ended, Watched

LEAST_REPLACED = 20
ROUNDS_PER_KILL = 3
KILLS_IN_A_ROW = 5  # of the run itself, before it may complete
BEGINNING = 0.25  # of a phase, as long as one process alone takes for it: two are quicker
DOING = {
    **{"load": "start", "check": "start", "start": "start", "train": "training"},
    **{"serve": "serving", "attack": "attacks", "measure": "end", "write": "end"},
}
"""By the first word of a phase: what a run does in it."""
LONG_SERVING = {
    "max_images": 1000,
    "splits": {
        "training": 0.35,
        "validation": 0.05,
        "auxiliary": 0.15,
        "auxiliary_validation": 0.05,
        "victims": 0.4,
    },
}
"""Data with four hundred requests: long enough for something to happen while they are served."""


# Hosts ------------------------------------------------------------------------------------------


def hosts_killed(campaign: Campaign, repeats: int) -> Outcome:
    """Kill random hosts at random moments of one run: training, serving and attacks.

    The run has several rounds for each kill: at least one round passes between two kills, so that
    the killed host has been replaced.
    """
    own, plans = _with_time_for(campaign, repeats)
    alone, folder = own.new_folder(), own.new_folder()
    reference = own.run(alone, INLINE)
    own.refer_to(alone)
    watched = own.start(folder)
    phases: list[str] = []
    for arm, (in_training, elsewhere) in plans.items():
        phases += _kill_in_training(own, watched, folder, arm, in_training)
        for kind in elsewhere:
            phases += _kill_in_phase(own, watched, f"{kind} {arm}")
    ended = watched.end()
    replaced = _replaced(folder)
    kinds = [phase.split()[0] for phase in phases]
    planned = {kind for _, elsewhere in plans.values() for kind in elsewhere}
    where = ", ".join(f"{kinds.count(kind)} in {DOING[kind]}" for kind in dict.fromkeys(kinds))
    return own.outcome(
        "host killed (SIGKILL), all in one run",
        len(phases),
        "replaced, its devices' messages repeated; complete",
        f"killed {where}; exit code {ended.exit_code}, the run counts {replaced} replaced",
        reference.exit_code == ended.exit_code == 0
        and len(phases) == repeats
        and replaced >= min(repeats, LEAST_REPLACED)
        and planned <= set(kinds),
        own.equal(folder),
        [reference, ended],
    )


Plan = dict[str, tuple[int, list[str]]]
"""By arm: how many kills in its training, and in which of its other phases there is one."""


def _with_time_for(campaign: Campaign, kills: int) -> tuple[Campaign, Plan]:
    """Return a campaign with a scenario long enough for the kills, and the kills of each arm."""
    tree = yaml.safe_load(campaign.scenario.read_text(encoding="utf-8"))
    arms = [arm["name"] for arm in tree["arms"]]
    plans: Plan = {}
    for place, arm in enumerate(arms):
        share = kills // len(arms) + (place < kills % len(arms))
        elsewhere = ["serve", "attack"][: max(0, share - 1)]
        plans[arm] = (share - len(elsewhere), elsewhere)
    most = max(in_training for in_training, _ in plans.values())
    rounds = max(tree["training"]["rounds"], ROUNDS_PER_KILL * (most + 1))
    tree["data"] |= LONG_SERVING
    tree["training"]["rounds"] = rounds
    folder = campaign.new_folder()
    folder.mkdir()
    scenario = folder / "scenario.yaml"
    scenario.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return Campaign(scenario, folder, campaign.dice, deadline=campaign.deadline), plans


def _kill_in_training(
    own: Campaign, watched: Watched, folder: Path, arm: str, kills: int
) -> list[str]:
    """Kill hosts within rounds spread over an arm's training; return the phases."""
    rounds = rounds_done(own.reference, arm)
    round_s = dict(own.phases)[f"train {arm}"] / rounds
    phases: list[str] = []
    seen = 0
    for number in range(kills):
        due = int((number + own.dice.uniform(0.0, 0.7)) * (rounds - 1) / kills)
        due = max(due, seen + 1)
        if not watched.wait_until(lambda due=due: rounds_done(folder, arm) >= due):
            break
        time.sleep(own.dice.uniform(0.0, round_s))
        seen = rounds_done(folder, arm)
        phases += _kill_one(own, watched)
    return phases


def _kill_in_phase(own: Campaign, watched: Watched, phase: str) -> list[str]:
    """Kill a host at a random moment early in a phase; return the actual phase."""
    before = own.names[own.names.index(phase) - 1]
    if not watched.wait_until(lambda: before in watched.phases_done()):
        return []
    time.sleep(own.dice.uniform(0.0, dict(own.phases)[phase] * BEGINNING))
    return _kill_one(own, watched)


def _kill_one(own: Campaign, watched: Watched) -> list[str]:
    hosts = watched.children("_HostActor")
    if not hosts:
        return []
    own.dice.choice(hosts).kill()
    return [own.phase_now(watched)]


def _replaced(folder: Path) -> int:
    path = folder / "host.json"
    return int(json.loads(path.read_text())["host_restarts"]) if path.is_file() else 0


# Ray --------------------------------------------------------------------------------------------


def ray_killed(name: str) -> Callable[[Campaign, int], Outcome]:
    """Return the case that kills one of Ray's processes at random moments."""

    def killed(campaign: Campaign, repeats: int) -> Outcome:
        ended: list[Ended] = []
        phases: list[str] = []
        seconds, equal = [0.0], True
        for _ in range(repeats):
            folder = campaign.new_folder()
            watched = campaign.start(folder)
            campaign.reach(watched, campaign.random_moment(campaign.in_arms()))
            for process in watched.children(name)[:1]:
                process.kill()
                phases.append(campaign.phase_now(watched))
            killed_at = time.monotonic() - watched.began
            ended.append(watched.end())
            seconds.append(ended[-1].wall_s - killed_at)
            ended.append(campaign.run(folder, ("--resume", *INLINE)))
            equal = equal and campaign.equal(folder)
        stopped, resumed = ended[::2], ended[1::2]
        wordless = [item for item in stopped if not _says_how_to_go_on(item)]
        codes = sorted({item.exit_code for item in stopped})
        return campaign.outcome(
            f"Ray's {name} killed (SIGKILL), at a random moment",
            len(phases),
            "stops with one sentence and exit code 1; --resume completes",
            f"killed {counted(phases)}; exit code {', '.join(map(str, codes))} within "
            f"{max(seconds):.0f} s: “{short([*wordless, *stopped][0].last_words)}”",
            len(phases) == repeats
            and codes == [1]
            and not wordless
            and all(item.exit_code == 0 for item in resumed),
            equal,
            ended,
        )

    return killed


def _says_how_to_go_on(ended: Ended) -> bool:
    return ended.is_one_sentence and "--resume" in ended.last_words


# The run itself ---------------------------------------------------------------------------------


def driver_killed(campaign: Campaign, repeats: int, resume: Sequence[str] = ()) -> Outcome:
    """Kill the run itself at random moments, several times, before it completes.

    Parameters
    ----------
    resume : options of resumed runs; by default inline and on Ray alternately.
    """
    ended: list[Ended] = []
    phases: list[str] = []
    folder, equal, completed, in_a_row = campaign.new_folder(), True, 0, 0
    while True:
        known = (folder / "scenario.resolved.yaml").exists()
        how = resume or (INLINE if len(ended) % 2 else ())
        watched = campaign.start(folder, ("--resume", *how) if known else ())
        killed = len(phases) < repeats and in_a_row < KILLS_IN_A_ROW
        if killed:
            present = _phases_left(campaign, folder)
            campaign.reach(watched, campaign.random_moment(present), present)
            phase = campaign.phase_now(watched, present)
            watched.send(signal.SIGKILL)
        ended.append(watched.end())
        if killed and ended[-1].exit_code == -signal.SIGKILL:
            phases.append(phase)
            in_a_row += 1
            continue
        in_a_row = 0
        completed += ended[-1].exit_code == 0
        equal = equal and campaign.equal(folder)
        if len(phases) >= repeats or ended[-1].exit_code != 0:
            break
        folder = campaign.new_folder()
    return campaign.outcome(
        "the run itself killed (SIGKILL), at a random moment",
        len(phases),
        "--resume completes, also after being killed again",
        f"killed {counted(phases)}; {completed} runs completed",
        len(phases) == repeats
        and completed > 0
        and all(item.exit_code in (0, -signal.SIGKILL) for item in ended),
        equal,
        ended,
    )


def _phases_left(campaign: Campaign, folder: Path) -> list[str]:
    """Return the remaining phases of a run; finished arms have none."""
    finished = {path.parent.name for path in folder.glob("checkpoints/*/finished.json")}
    return [
        name
        for name in campaign.names
        if name not in campaign.in_arms() or name.split(" ", 1)[1] not in finished
    ]
