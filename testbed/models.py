"""Command line: ``python -m testbed.models`` lists and removes kept provider-trained models."""

import sys
from argparse import ArgumentParser
from pathlib import Path

from testbed.core.arguments import parser_of
from testbed.core.errors import command


def _parser() -> ArgumentParser:
    summary = "List or remove the provider-trained models that runs share."
    parser = parser_of("testbed.models", summary)
    parser.add_argument(
        "--folder", type=Path, help="default: TESTBED_MODELS_DIR, or models/ in this directory"
    )
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--clean", action="store_true", help="remove damaged and incomplete models")
    chosen.add_argument("--remove", action="store_true", help="remove all models")
    return parser


@command
def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = _parser().parse_args(arguments)
    from testbed.cli.kept_models import list_or_remove

    list_or_remove(options.folder, remove=options.remove, clean=options.clean)
    return 0


if __name__ == "__main__":
    sys.exit(main())
