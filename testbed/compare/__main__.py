"""Command line: ``python -m testbed.compare RUN RUN ...`` compares separate runs."""

import argparse
import shlex
import sys
from pathlib import Path

from testbed.compare.defaults import MAX_ACCURACY_LOSS, RESAMPLES
from testbed.core.arguments import parser_of
from testbed.core.errors import command

EPILOG = """\
examples:
  python -m testbed.compare results/stress-0 results/stress-1 results/stress-2
  python -m testbed.compare results/stress-* --reference undefended --max-accuracy-loss 0.05
  python -m testbed.compare results/stress-* --out results/stress --markdown docs/defences.md
  python -m testbed.compare results/faces-* --attacks-markdown docs/ladder.md --label faces
"""


def _parser() -> argparse.ArgumentParser:
    summary = "Compare runs: seeds of one scenario, or scenarios on the same data and fleet."
    parser = parser_of("testbed.compare", summary, EPILOG)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a results folder")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", default=Path("results/compare"),
        help="folder for the comparison (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help="replace an existing comparison")
    parser.add_argument(
        "--reference", metavar="ARM", help="compare with this arm (default: first undefended one)"
    )
    parser.add_argument(
        "--max-accuracy-loss", type=float, default=MAX_ACCURACY_LOSS, metavar="SHARE",
        help="match defences at the reference's accuracy minus this share (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--resamples", type=int, default=RESAMPLES, metavar="N",
        help="bootstrap resamples (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE",
        help="write the table of all arms into its block of this document",
    )  # fmt: skip
    parser.add_argument(
        "--attacks-markdown", type=Path, metavar="FILE",
        help="write the table of all attacks by arm into its block of this document",
    )  # fmt: skip
    parser.add_argument(
        "--label", metavar="NAME",
        help="name of the blocks, so that one document can hold tables of several comparisons",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print compare.json, not the table")
    return parser


@command
def main(arguments: list[str] | None = None) -> int:
    """Compare; return 0, or 2 with one sentence on standard error for bad input."""
    chosen = _parser().parse_args(arguments)
    from rich.console import Console

    from testbed.compare.build import check_folder, json_text, write_comparison
    from testbed.compare.comparison import compare
    from testbed.compare.markdown import tables_by_document
    from testbed.compare.terminal import short_table
    from testbed.pages.documents import write_blocks

    check_folder(chosen.out, chosen.force)
    documents = tables_by_document(chosen.markdown, chosen.attacks_markdown, chosen.label)
    comparison = compare(chosen.runs, chosen.reference, chosen.max_accuracy_loss, chosen.resamples)
    made_by = _command(chosen)
    page = write_comparison(comparison, chosen.out, made_by)
    for path, tables in documents.items():
        write_blocks(path, {block: table(comparison, made_by) for block, table in tables.items()})
    if chosen.json:
        print(json_text(comparison), end="")
    else:
        Console().print(short_table(comparison, page))
    return 0


def _command(chosen: argparse.Namespace) -> str:
    """Return the command of the comparison; absolute paths are reduced to their names."""
    words = ["python", "-m", "testbed.compare"]
    words += [str(run) if not run.is_absolute() else run.name for run in chosen.runs]
    if chosen.reference is not None:
        words += ["--reference", chosen.reference]
    if chosen.max_accuracy_loss != MAX_ACCURACY_LOSS:
        words += ["--max-accuracy-loss", f"{chosen.max_accuracy_loss:g}"]
    if chosen.resamples != RESAMPLES:
        words += ["--resamples", str(chosen.resamples)]
    for option, path in (
        ("--markdown", chosen.markdown),
        ("--attacks-markdown", chosen.attacks_markdown),
    ):
        if path is not None:
            words += [option, path.name if path.is_absolute() else str(path)]
    if chosen.label is not None:
        words += ["--label", chosen.label]
    return shlex.join(words)


if __name__ == "__main__":
    sys.exit(main())
