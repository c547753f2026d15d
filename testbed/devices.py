"""Lists and filters the device catalogue and the link profiles, with their sources.

::

    python -m testbed.devices                          every device
    python -m testbed.devices --class mcu --max-ram-mb 1
    python -m testbed.devices raspberry-pi-4           everything about one, with sources
    python -m testbed.devices --links [NAME]           the link profiles
"""

import argparse
import sys
from pathlib import Path

from testbed.core.arguments import parser_of
from testbed.core.errors import command
from testbed.fleet.device_classes import DEVICE_CLASSES


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("testbed.devices", __doc__)
    parser.add_argument("name", nargs="?", help="show everything about this device or link")
    parser.add_argument(
        "--class",
        dest="device_class",
        action="append",
        metavar="CLASS",
        help=f"one of {', '.join(DEVICE_CLASSES)}; may be repeated",
    )
    parser.add_argument("--search", help="words that name, title or backend must contain")
    parser.add_argument("--with-power", action="store_true", help="only devices of known power")
    parser.add_argument("--min-ram-mb", type=float, help="at least this much memory")
    parser.add_argument("--max-ram-mb", type=float, help="at most this much memory")
    parser.add_argument(
        "--catalogue",
        type=Path,
        action="append",
        default=[],
        help="add a catalogue of your own (CSV or YAML)",
    )
    parser.add_argument("--links", action="store_true", help="list the link profiles instead")
    parser.add_argument("--csv", action="store_true", help="print CSV with all sources")
    return parser


@command
def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit status."""
    options = _parser().parse_args(arguments)
    from testbed.cli.catalogue import show  # after the help, which needs nothing of it

    show(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
