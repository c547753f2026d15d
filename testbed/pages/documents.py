"""Text between two marks of a document: what a command prints goes there, the rest is a person's.

Marks are comments in Markdown, so that a reader of the rendered document does not see them.
"""

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from testbed.core.errors import UserError
from testbed.core.files import write_bytes

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True)
class Marks:
    """The two lines around a text."""

    begin: str
    end: str


def labelled(what: str, label: str | None = None) -> Marks:
    """Return the marks of a command's text, with a label where a document holds several.

    Raises
    ------
    UserError : a label that is not a name.
    """
    if label is not None and not _LABEL.fullmatch(label):
        raise UserError(
            f"--label {label}: give a name of letters, digits, '_', '.' and '-', at most 64, that "
            "begins with a letter or a digit"
        )
    name = what if label is None else f"{what} {label}"
    return Marks(f"<!-- {name}: begin -->", f"<!-- {name}: end -->")


def replaced(path: Path, texts: Sequence[tuple[Marks, str]]) -> str:
    """Return the document with each text between its marks; a new one holds nothing else.

    Raises
    ------
    UserError : the document cannot be read, or does not have each mark exactly once, the one that
        begins first.
    """
    blocks = [(marks, f"{marks.begin}\n\n{text}\n\n{marks.end}") for marks, text in texts]
    try:
        document = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return "\n\n".join(block for _, block in blocks) + "\n"
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None
    for marks, block in blocks:
        once = document.count(marks.begin) == document.count(marks.end) == 1
        if not once or document.index(marks.begin) > document.index(marks.end):
            raise UserError(
                f"{path}: needs the lines '{marks.begin}' and '{marks.end}', each once and in this "
                "order; the table goes between them"
            )
        before, _, rest = document.partition(marks.begin)
        document = before + block + rest.partition(marks.end)[2]
    return document


def check_marks(path: Path, *marks: Marks) -> None:
    """Check that texts can go between these marks of a document, before what takes long begins.

    Raises
    ------
    UserError : as ``replaced``.
    """
    replaced(path, [(each, "") for each in marks])


def write_between(path: Path, *texts: tuple[Marks, str]) -> None:
    """Put texts between their marks of a document, all of them or none.

    Raises
    ------
    UserError : as ``replaced``, or the document cannot be written.
    """
    write_bytes(path, replaced(path, texts).encode("utf-8"))


def measured_into(
    document: Path | None, marks: Marks, measure: Callable[[], tuple[str, bool]], shown: bool = True
) -> int:
    """Measure, print what is to be said of it, put that into a document, and return the exit code.

    Parameters
    ----------
    document : refused before anything is measured, where the text could not go there; None: none.
    measure : returns the text, and whether what was measured is as it must be.
    shown : print the text; False: the measurement has printed it already.

    Returns
    -------
    0; 1 where something is not as it must be; 2 and one sentence where something was refused.
    """
    try:
        if document is not None:
            check_marks(document, marks)
        text, sound = measure()
        if shown:
            print(text)
        if document is not None:
            write_between(document, (marks, text))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0 if sound else 1
