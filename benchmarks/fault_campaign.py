"""Injects faults into runs of the testbed, and checks that the runs handle them.

    python benchmarks/fault_campaign.py --document docs/reliability.md

Every case states the expected behaviour and a time limit. Results must equal those of an
uninterrupted run byte for byte, and no process, file or folder may be left.
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path

import yaml
from faults.campaign import Campaign, Outcome
from faults.cases import CASES, UNINTERRUPTED, inject

from testbed.pages.documents import Block, markdown_table, measured_into

BLOCK = Block("python benchmarks/fault_campaign.py")
SCENARIO = {
    "name": "faults",
    "seed": 3,
    "data": {"name": "digits", "max_images": 260},
    "fleet": {
        "size": 8,
        "mix": [{"device": "raspberry-pi-4", "links": {"wifi": 1, "lte": 1}}],
        "availability": {"name": "bernoulli", "probability": 0.9},
    },
    "training": {
        "rounds": 12,
        "cohort_size": 6,
        "local_steps": 2,
        "batch_size": 6,
        "round_deadline_s": 600.0,
    },
    "arms": [
        {"name": "undefended", "front_end": {"name": "cnn", "cut": 1, "width": 8}},
        {
            "name": "noise",
            "front_end": {"name": "cnn", "cut": 1, "width": 8},
            "defence": "gaussian_noise",
        },
    ],
    "adversaries": [{"name": "cloud", "position": {"tap": "cloud"}, "attack": "ridge"}],
    "engine": {"backend": "ray", "hosts": 2, "shard_size": 2, "cloud_threads": 1},
    "evaluation": {"bootstrap_resamples": 100, "reconstructions_shown": 4},
}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument(
        "--repeats", type=int, help="repeats of every case (default: full campaign)"
    )
    parser.add_argument("--rounds", type=int, help="training rounds (default: full campaign)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments")
    parser.add_argument("--document", type=Path, help="Markdown file that gets the table")
    return parser.parse_args(arguments)


def table(outcomes: list[Outcome]) -> str:
    """Return the outcomes as a Markdown table."""
    headings = ["fault", "times", "what should happen", "what happened", "results equal"]
    headings += ["processes left", "files left", "seconds, of at most", ""]
    return markdown_table(headings, map(_cells, outcomes))


def _cells(outcome: Outcome) -> list[str]:
    return [
        outcome.fault,
        str(outcome.times),
        outcome.expected,
        outcome.observed,
        {None: "", True: "yes", False: "**NO**"}[outcome.equal],
        str(outcome.processes_left),
        ", ".join(f"**{name}**" for name in outcome.left) or "0",
        f"{outcome.wall_s:.0f} of {outcome.limit_s:.0f}",
        "passed" if outcome.passed else "**FAILED**",
    ]


def campaign(arguments: argparse.Namespace, folder: Path) -> list[Outcome]:
    """Run the chosen cases, one after another."""
    tree = {**SCENARIO, "training": {**SCENARIO["training"]}}  # type: ignore[dict-item]
    if arguments.rounds is not None:
        tree["training"]["rounds"] = arguments.rounds
    scenario = folder / "scenario.yaml"
    scenario.write_text(yaml.safe_dump(tree), encoding="utf-8")
    state = Campaign(scenario, folder, random.Random(arguments.seed))  # noqa: S311 - moments
    outcomes = []
    for name, case in {"none": UNINTERRUPTED, **CASES}.items():
        if name == "none" or name in arguments.cases:
            outcomes.append(inject(name, case, state, arguments.repeats or case.repeats))
            print(table(outcomes[-1:]).splitlines()[-1], flush=True)
        if not state.results:
            break  # nothing to compare with
    return outcomes


def main(arguments: list[str] | None = None) -> int:
    """Run the campaign; return 1 if a case failed."""
    options = parse(arguments)

    def measured() -> tuple[str, bool]:
        with tempfile.TemporaryDirectory(prefix="faults-") as folder:
            outcomes = campaign(options, Path(folder))
        return table(outcomes), all(item.passed for item in outcomes)

    return measured_into(
        options.document, BLOCK, measured, [Path(__file__).parent / "faults"], [options.seed], False
    )


if __name__ == "__main__":
    sys.exit(main())
