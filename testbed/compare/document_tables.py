"""Puts the comparison's tables between the marks of one or two documents."""

from collections.abc import Callable, Mapping
from pathlib import Path

from testbed.compare import markdown, markdown_attacks
from testbed.compare.comparison import Comparison
from testbed.core.errors import UserError
from testbed.pages.documents import Marks, check_marks, labelled, write_between

Table = Callable[[Comparison, str], str]
TABLES: tuple[tuple[str, Table], ...] = (
    (markdown.MARKED, markdown.markdown_table),
    (markdown_attacks.MARKED, markdown_attacks.attacks_markdown),
)
"""What the marks around a table say, and the table: of all arms, and of all attacks by arm."""


def check_documents(arms: Path | None, attacks: Path | None, label: str | None) -> None:
    """Refuse documents without the marks, before anything is computed or written.

    Raises
    ------
    UserError : as ``write_documents``.
    """
    for path, tables in _tables(arms, attacks, label).items():
        check_marks(path, *tables)


def write_documents(
    comparison: Comparison,
    command: str,
    arms: Path | None,
    attacks: Path | None,
    label: str | None,
) -> None:
    """Write the table of all arms, and that of all attacks by arm, each where it is wanted.

    Parameters
    ----------
    command : makes the tables again.
    arms, attacks : documents of the two tables, one and the same if wanted; None: not wanted.
    label : the name in the marks, or None for marks without one.

    Raises
    ------
    UserError : a label without a document or that is no name, a document that cannot be read or
        written, or that lacks the marks.
    """
    for path, tables in _tables(arms, attacks, label).items():
        texts = [(marks, table(comparison, command)) for marks, table in tables.items()]
        write_between(path, *texts)


def _tables(
    arms: Path | None, attacks: Path | None, label: str | None
) -> Mapping[Path, dict[Marks, Table]]:
    """Return which tables go into which document, and between which marks."""
    if label is not None and arms is None and attacks is None:
        raise UserError(
            f"--label {label}: names the marks of a table; give --markdown or --attacks-markdown"
        )
    found: dict[Path, dict[Marks, Table]] = {}
    for path, (marked, table) in zip((arms, attacks), TABLES, strict=True):
        if path is not None:
            place = next((known for known in found if known.resolve() == path.resolve()), path)
            found.setdefault(place, {})[labelled(marked, label)] = table
    return found
