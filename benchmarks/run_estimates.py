"""Compares the time that ``--dry-run`` estimates for scenarios with the time that they take.

    python benchmarks/run_estimates.py --document docs/speed.md

Every scenario is first estimated, then run by ``python -m testbed.run`` in a process of its own.
Times are wall times, so the machine must be free of other load.
"""

import argparse
import sys
from pathlib import Path

from scaling.processes import measured

from testbed.cli.run_time import RunTimes
from testbed.core.process import tune_malloc
from testbed.engine.setting.models import arm_models
from testbed.engine.setting.run_context import read_run_inputs
from testbed.pages.documents import Block, markdown_table, measured_into
from testbed.scenario.loading import load_scenario
from testbed.scenario.schema import Scenario

BLOCK = Block("python benchmarks/run_estimates.py")
SCENARIOS = Path(__file__).resolve().parents[1] / "scenarios"
LONGEST_S = 3600.0
DEFAULT = (
    "smoke",
    "100_devices",
    "edge_savings",
    "training_attacks",
    "diurnal_fleet",
    "cifar10_demo",
)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "scenarios", nargs="*", type=Path, metavar="scenario",
        default=[SCENARIOS / f"{name}.yaml" for name in DEFAULT],
        help="scenario files (default: those that take minutes)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("results/run_estimates"))
    parser.add_argument("--document", type=Path, help="Markdown file that gets the table")
    return parser.parse_args(arguments)


def estimated_s(scenario: Scenario) -> float:
    """Return the wall time that a dry run states, in seconds."""
    inputs = read_run_inputs(scenario)
    run = RunTimes(inputs)
    arms = [run.arm(arm_models(inputs, arm)) for arm in scenario.arms]
    return run.total_s(arms)


def measured_s(path: Path, out: Path) -> float:
    """Run a scenario without kept models and return its wall time in seconds.

    Raises
    ------
    UserError : the run failed.
    """
    command = [sys.executable, "-m", "testbed.run", str(path.resolve())]
    command += ["--out", str(out.resolve()), "--force", "--set", "training.reuse_models=false"]
    out.parent.mkdir(parents=True, exist_ok=True)
    return measured(command, out.with_suffix(".log"), LONGEST_S).wall_s


def main(arguments: list[str] | None = None) -> int:
    """Estimate, run, and write the table."""
    options = parse(arguments)
    tune_malloc()

    def measure() -> tuple[str, bool]:
        rows = []
        for path in options.scenarios:
            scenario = load_scenario(path)
            expected = estimated_s(scenario)
            taken = measured_s(path, options.out / scenario.name)
            rows.append(
                (f"`{scenario.name}`", f"{expected:.0f}", f"{taken:.0f}", f"{taken / expected:.2g}")
            )
            print(*rows[-1], flush=True)
        headings = ("scenario", "estimate s", "measured s", "measured / estimate")
        return markdown_table(headings, rows, numbers=3), True

    return measured_into(options.document, BLOCK, measure, options.scenarios)


if __name__ == "__main__":
    sys.exit(main())
