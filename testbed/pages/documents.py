"""Blocks of a document that a command writes, between two lines that name the command.

The lines are comments in Markdown, which a rendered document does not show:

    <!-- python benchmarks/scale.py: begin -->
    <!-- python benchmarks/scale.py: end -->

Where a command writes several blocks, a label in parentheses follows it.
"""

import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from testbed.core.errors import UserError
from testbed.core.files import write_bytes
from testbed.pages.origin import of_files

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_BEGIN = re.compile(r"^<!-- (.+?)(?: \((\S+)\))?: begin -->$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A block of a document: the command that writes it, and its label.

    Raises
    ------
    UserError : a label that is not a name.
    """

    command: str
    label: str | None = None

    def __post_init__(self) -> None:
        if self.label is not None and not _LABEL.fullmatch(self.label):
            raise UserError(
                f"--label {self.label}: give a name of at most 64 letters, digits, '_', '.' and "
                "'-' that begins with a letter or a digit"
            )

    @property
    def begin(self) -> str:
        """The line before the text."""
        return self._line("begin")

    @property
    def end(self) -> str:
        """The line after the text."""
        return self._line("end")

    def _line(self, edge: str) -> str:
        label = f" ({self.label})" if self.label is not None else ""
        return f"<!-- {self.command}{label}: {edge} -->"


def blocks_of(path: Path) -> list[Block]:
    """Return the blocks of a document.

    Raises
    ------
    UserError : the document cannot be read, or a block does not begin and end exactly once.
    """
    found = _BEGIN.findall(_read(path) or "")
    blocks = [Block(command, label or None) for command, label in found]
    check_blocks(path, *blocks)
    return blocks


def text_of(path: Path, block: Block) -> str:
    """Return what stands between the two lines of a block, without blank lines around it."""
    document = _read(path) or ""
    return document.split(block.begin, 1)[1].split(block.end, 1)[0].strip("\n")


def replaced(path: Path, texts: Mapping[Block, str]) -> str:
    """Return a document with a text in each of these blocks; a new document holds nothing else.

    Raises
    ------
    UserError : the document cannot be read, or a block does not begin and end exactly once.
    """
    filled = {block: f"{block.begin}\n\n{text}\n\n{block.end}" for block, text in texts.items()}
    document = _read(path)
    if document is None:
        return "\n\n".join(filled.values()) + "\n"
    for block, text in filled.items():
        begin, end = re.escape(block.begin), re.escape(block.end)
        parts = re.split(rf"^(?:{begin}|{end})$", document, flags=re.MULTILINE)
        if len(parts) != 3 or document.index(block.end) < document.index(block.begin):
            raise UserError(
                f"{path}: needs the lines '{block.begin}' and '{block.end}', each once and in this "
                "order"
            )
        document = parts[0] + text + parts[2]
    return document


def check_blocks(path: Path, *blocks: Block) -> None:
    """Check that a document has these blocks, before a long measurement begins.

    Raises
    ------
    UserError : as ``replaced``.
    """
    replaced(path, dict.fromkeys(blocks, ""))


def write_blocks(path: Path, texts: Mapping[Block, str]) -> None:
    """Write a text into each of these blocks of a document: all of them or none.

    Raises
    ------
    UserError : as ``replaced``, or the document cannot be written.
    """
    write_bytes(path, replaced(path, texts).encode("utf-8"))


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> str:
    """Return a Markdown table; its last ``numbers`` columns are aligned to the right."""
    rules = ["---"] * (len(headings) - numbers) + ["---:"] * numbers
    lines = [[cell.replace("|", "\\|") for cell in row] for row in (headings, *rows)]
    return "\n".join(
        [f"| {' | '.join(lines[0])} |", f"|{'|'.join(rules)}|"]
        + [f"| {' | '.join(line)} |" for line in lines[1:]]
    )


def measured_into(
    document: Path | None,
    block: Block,
    measure: Callable[[], tuple[str, bool]],
    inputs: Iterable[Path],
    seeds: Sequence[int] = (),
    shown: bool = True,
) -> int:
    """Measure, print the text, write it into a document, and return the exit code.

    A line below the text states its origin (:mod:`testbed.pages.origin`).

    Parameters
    ----------
    document : checked before the measurement begins; None: print only.
    measure : returns the text, and whether the measurement passed.
    inputs : the scenarios, or the Python files and folders, that decide the figures.
    seeds : of the measurement, if it has any.
    shown : print the text; False: the measurement has printed it already.

    Returns
    -------
    0; 1 if the measurement did not pass; 2 and one sentence for bad input.
    """
    try:
        if document is not None:
            check_blocks(document, block)
        origin = of_files(inputs, seeds).line()
        text, passed = measure()
        if shown:
            print(text)
        if document is not None:
            write_blocks(document, {block: f"{text}\n\n{origin}"})
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0 if passed else 1


def _read(path: Path) -> str | None:
    """Return a document, or None where there is none yet."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None
