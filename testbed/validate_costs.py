"""Checks the cost model against published latencies.

Rows of role ``calibrate`` calibrate their device, rows of role ``validate`` are predicted::

    python -m testbed.validate_costs measured_latencies.csv [--json] [--cross-validate]
"""

import argparse
import sys
from pathlib import Path

from testbed.core.arguments import parser_of
from testbed.core.errors import command


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("testbed.validate_costs", __doc__)
    parser.add_argument("measured", type=Path, help="CSV of published latencies")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument(
        "--cross-validate",
        action="store_true",
        help="also refit on part of the file's devices and predict the others",
    )
    parser.add_argument("--folds", type=int, default=10, help="parts for --cross-validate")
    return parser


@command
def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit status."""
    options = _parser().parse_args(arguments)
    from testbed.cli.cost_errors import validate  # after the help, which needs nothing of it

    validate(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
