"""Profiles every front-end and defence on every device, with the alternatives to splitting.

::

    python -m testbed.profile                              64x64 RGB images over WiFi
    python -m testbed.profile --image-size 32 --channels 1 --classes 10 --link lte
    python -m testbed.profile --device nucleo-l4r5zi --device raspberry-pi-4
"""

import argparse
import sys
from pathlib import Path

from testbed.core.arguments import parser_of
from testbed.core.errors import command

DETAILED = "siftfunnel_cnn"


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("testbed.profile", __doc__)
    parser.add_argument("--image-size", type=int, default=64, help="pixels (default: 64)")
    parser.add_argument("--channels", type=int, default=3, help="of an image (default: 3)")
    parser.add_argument("--classes", type=int, default=10, help="of the task (default: 10)")
    parser.add_argument("--link", default="wifi", help="link profile (default: wifi)")
    parser.add_argument("--cloud", default="cloud-server", help="the cloud's catalogue device")
    parser.add_argument(
        "--device", action="append", default=[], help="show only these; may be repeated"
    )
    parser.add_argument(
        "--variant",
        action="append",
        default=[],
        help=f"show all costs of this variant (default: {DETAILED}); may be repeated",
    )
    parser.add_argument("--all", action="store_true", help="show every device, not one per class")
    parser.add_argument(
        "--catalogue", type=Path, action="append", default=[], help="add a catalogue of your own"
    )
    parser.add_argument(
        "--no-host", action="store_true", help="skip the second estimate, measured on this host"
    )
    parser.add_argument("--out", type=Path, default=Path("results/profile"), help="output folder")
    parser.add_argument("--force", action="store_true", help="replace an existing profile")
    return parser


@command
def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit status."""
    options = _parser().parse_args(arguments)
    options.variant = options.variant or [DETAILED]
    from testbed.profile.command import profile  # after the help, which needs nothing of it

    profile(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
