"""Writes a comparison's folder: plots, entries.csv, compare.html and, last, compare.json."""

import json
from pathlib import Path

from testbed.compare.comparison import Comparison
from testbed.compare.document import document, table_csv
from testbed.compare.page import render
from testbed.compare.plots import PLOTS, draw_all
from testbed.core.errors import UserError
from testbed.core.files import check_folder_for_output, write_bytes
from testbed.privacy.intervals import Interval

JSON, PAGE, CSV = "compare.json", "compare.html", "entries.csv"


def check_folder(folder: Path, force: bool) -> None:
    """Reject a folder whose files the comparison would overwrite or mix with.

    Raises
    ------
    UserError : it cannot be written, is a run's results folder, or holds files and ``force`` is not
        given.
    """
    check_folder_for_output(folder)
    if (folder / "results.json").exists():
        raise UserError(f"{folder}: is the results folder of a run; give another with --out")
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / JSON).exists():
            raise UserError(f"{folder}: holds files that are not a comparison; give another folder")
        if not force:
            raise UserError(f"{folder}: holds a comparison; give --force to replace it")


def json_text(comparison: Comparison) -> str:
    """Return ``compare.json``."""
    tree, plain = document(comparison), Interval.model_dump
    text = json.dumps(tree, indent=2, ensure_ascii=False, allow_nan=False, default=plain)
    return f"{text}\n"


def write_comparison(comparison: Comparison, folder: Path, command: str) -> Path:
    """Write the comparison; the same runs give the same bytes.

    Each file is replaced as a whole; ``compare.json`` comes last and marks a complete folder.

    Returns
    -------
    Path : ``compare.html``.

    Raises
    ------
    UserError : the folder cannot be written.
    """
    plots = draw_all(comparison)
    page = render(comparison, plots, command)
    text, table = json_text(comparison), table_csv(comparison)
    for plot in PLOTS:
        path = folder / "plots" / f"{plot.name}.png"
        if plot.name in plots:
            write_bytes(path, plots[plot.name])
        elif path.exists():  # of a comparison that is being replaced
            path.unlink()
    write_bytes(folder / CSV, table.encode("utf-8"))
    write_bytes(folder / PAGE, page.encode("utf-8"))
    write_bytes(folder / JSON, text.encode("utf-8"))
    return folder / PAGE
