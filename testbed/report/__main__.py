"""Command line: ``python -m testbed.report FOLDER`` rebuilds the report of a results folder."""

import sys
from pathlib import Path

from testbed.core.arguments import parser_of
from testbed.core.errors import command
from testbed.report.build import build_report
from testbed.report.summary import print_summary


@command
def main(arguments: list[str] | None = None) -> int:
    """Build the report; return 0, or 2 with one sentence on standard error for bad input."""
    parser = parser_of("testbed.report", "Rebuild the report of a results folder.")
    parser.add_argument("folder", type=Path, help="the results folder of a run")
    parser.add_argument("--quiet", action="store_true", help="print the report's path only")
    chosen = parser.parse_args(arguments)
    report = build_report(chosen.folder)
    if chosen.quiet:
        print(report)
    else:
        print_summary(chosen.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
