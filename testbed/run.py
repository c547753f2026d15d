"""Command line: ``python -m testbed.run scenarios/100_devices.yaml``."""

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from testbed.core.arguments import parser_of
from testbed.core.errors import HostError, UserError, command
from testbed.core.process import (
    Interrupts,
    no_collection_at_exit,
    no_compiler_cache,
    stop_telemetry,
    without_collections,
)

if TYPE_CHECKING:
    from testbed.scenario.schema import Scenario

stop_telemetry()  # before Flower or Ray are imported
no_compiler_cache()  # before PyTorch is
no_collection_at_exit()

EXIT_INTERRUPTED = 130
EPILOG = """\
examples:
  python -m testbed.run scenarios/100_devices.yaml
  python -m testbed.run scenarios/100_devices.yaml --set data.name=cifar10 --seed 1
  python -m testbed.run scenarios/100_devices.yaml --set arms.siftfunnel.defence.beta=0.4
  python -m testbed.run results/100_devices/scenario.resolved.yaml --out results/again
  python -m testbed.run scenarios/smoke.yaml scenarios/diurnal_fleet.yaml --out results/both
  python -m testbed.run scenarios/smoke.yaml --set "sweep.seed=[0, 1, 2]" --jobs 2
"""


def _parser() -> argparse.ArgumentParser:
    summary = "Run a fleet of simulated edge devices, attack it, and report."
    parser = parser_of("testbed.run", summary, EPILOG)
    parser.add_argument(
        "scenarios", nargs="*", metavar="scenario", type=Path,
        help="scenario file (YAML); several files, or a sweep, give one run folder each",
    )  # fmt: skip
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY.PATH=VALUE",
        action="append",
        default=[],
        help="override a key of the scenario, such as fleet.size=500; may be repeated",
    )
    parser.add_argument("--seed", type=int, help="override the scenario's seed")
    parser.add_argument("--out", type=Path, help="results folder (default: results/NAME)")
    parser.add_argument("--force", action="store_true", help="replace existing results")
    parser.add_argument(
        "--ray-address", metavar="HOST:PORT",
        help="join this Ray cluster ('auto': the one on this machine) instead of starting Ray; "
        "with --jobs, all runs join it",
    )  # fmt: skip
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run")
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N",
        help="run N scenarios or sweep points at once, each in its own process, on one Ray "
        "cluster: a new one, or that of --ray-address (default: 1)",
    )  # fmt: skip
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="show the scenario and a time estimate; run nothing",
    )
    parser.add_argument("--list", action="store_true", help="list registered components, and exit")
    return parser


@command
def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    chosen = _parser().parse_args(arguments)
    try:
        with Interrupts() as interrupts:
            return _dispatch(chosen, interrupts)
    except OSError as error:
        what = f"{error.filename}: " if error.filename else ""
        raise HostError(
            f"{what}{error.strerror or error}; continue a started run with --resume"
        ) from None
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return EXIT_INTERRUPTED


def _dispatch(chosen: argparse.Namespace, interrupts: Interrupts) -> int:
    if chosen.list:
        from testbed.cli.listing import print_listing

        print_listing()
        return 0
    if not chosen.scenarios:
        raise UserError("give a scenario file, such as scenarios/100_devices.yaml")
    if chosen.force and chosen.resume:
        raise UserError("--force replaces results and --resume continues them; give one of them")
    with without_collections():
        from testbed.scenario.loading import load_scenario
        from testbed.sweep.grid import has_sweep

    overrides = list(chosen.overrides)
    if chosen.seed is not None:
        overrides.append(f"seed={chosen.seed}")
    if len(chosen.scenarios) > 1 or has_sweep(chosen.scenarios[0], overrides):
        from testbed.sweep.command import run_many

        return run_many(chosen, overrides, interrupts)
    if chosen.jobs != 1:
        raise UserError("--jobs needs several scenarios or a sweep; this is a single run")
    with without_collections():  # components are imported when their options are checked
        scenario = load_scenario(chosen.scenarios[0], overrides)
    if chosen.ray_address is not None and scenario.engine.backend != "ray":
        raise UserError(
            "--ray-address has no effect with engine.backend=inline; remove one of them"
        )
    if chosen.dry_run:
        with without_collections():
            from testbed.cli.dry_run import print_dry_run

            print_dry_run(scenario)
        return 0
    return _run(chosen, scenario, interrupts)


def _run(chosen: argparse.Namespace, scenario: "Scenario", interrupts: Interrupts) -> int:
    with without_collections():
        from testbed.cli.display import RichDisplay
        from testbed.engine.execution import RunInterrupted, default_folder, execute
        from testbed.report.summary import print_summary
        from testbed.results.writing import RESOLVED

    folder = chosen.out or default_folder(scenario)
    try:
        with RichDisplay() as display:
            execute(
                scenario,
                folder,
                display,
                lambda: interrupts.requested,
                force=chosen.force,
                resume=chosen.resume,
                ray_address=chosen.ray_address,
            )
    except RunInterrupted as interrupted:
        again = shlex.join(
            ["python", "-m", "testbed.run", str(folder / RESOLVED), "--out", str(folder)]
        )
        print(f"{interrupted}; continue with: {again} --resume", file=sys.stderr)
        return EXIT_INTERRUPTED
    print_summary(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
