"""Loads a scenario's fleet with many requests; devices, links and the cloud have queues.

Nothing is trained and no image is classified. Times follow from the arms' front-ends and cloud
models::

    python -m testbed.load scenarios/100_devices.yaml --requests-per-s 2
    python -m testbed.load scenarios/100_devices.yaml --set fleet.size=10000 --max-batch 16
"""

import argparse
import sys
from pathlib import Path

from testbed.core.arguments import parser_of
from testbed.core.errors import command

SHORTHANDS = {
    "max_batch": "requests that a server answers together",
    "batch_window_ms": "how long a batch waits to fill",
    "cloud_price_usd_per_hour": "price of one server",
    "cloud_service": "catalogue or measured: model the cloud's times, or time them on this host",
}
"""Flags that stand for ``--set serving.KEY=VALUE``."""


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("testbed.load", __doc__)
    parser.add_argument("scenario", type=Path, help="scenario file (YAML)")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument(
        "--requests-per-s", type=float, default=10.0, help="of the whole fleet (default: 10)"
    )
    parser.add_argument("--requests", type=Path, help="CSV with the columns device, arrival_s")
    for key, explained in SHORTHANDS.items():
        flag = f"--{key.replace('_', '-')}"
        parser.add_argument(flag, dest=key, metavar="VALUE", help=f"{explained} (serving.{key})")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return parser


def _overrides(options: argparse.Namespace) -> list[str]:
    given = {key: getattr(options, key) for key in SHORTHANDS}
    short = [f"serving.{key}={value}" for key, value in given.items() if value is not None]
    return [*options.overrides, *short]


@command
def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit status."""
    options = _parser().parse_args(arguments)
    options.overrides = _overrides(options)
    from testbed.cli.load_arms import load  # after the help, which needs nothing of it

    load(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
