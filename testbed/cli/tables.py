"""Tables of the commands, on a terminal or in a file."""

import sys

from rich.console import Console
from rich.table import Table

WIDTH_OF_FILES = 185


def console() -> Console:
    """Return standard output: as wide as the terminal, or wide enough for every table."""
    return Console(width=None if sys.stdout.isatty() else WIDTH_OF_FILES)


def table(title: str, *headings: str) -> Table:
    """Return a table without rows; the first column names the row, the others hold numbers.

    A heading that begins with "<" is that of a column of words.
    """
    made = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for index, heading in enumerate(headings):
        words = index == 0 or heading.startswith("<")
        made.add_column(heading.removeprefix("<"), justify="left" if words else "right")
    made.columns[0].style, made.columns[0].no_wrap = "bold", True
    return made
