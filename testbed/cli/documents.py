"""Command line: ``python -m testbed.cli.documents`` writes the blocks of docs made from code.

With ``--check`` it writes nothing and fails where a block is out of date. Blocks that a benchmark
measures take hours to make: the command marks those whose scenario, program or testbed version has
changed since, and ``--older`` lists them.
"""

import argparse
import inspect
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from testbed.cli.components import default
from testbed.core.errors import UserError, command
from testbed.core.files import write_bytes
from testbed.core.project import PROJECT_ROOT
from testbed.core.registries import DEFENCES
from testbed.pages.documents import Block, blocks_of, markdown_table, replaced, text_of
from testbed.pages.origin import marked, why_older
from testbed.privacy.intervals import Interval
from testbed.results.columns import TABLES, TableName
from testbed.results.figures import GROUPS
from testbed.results.host_facts import HostFacts
from testbed.results.schema import Part, Scores, Summary

COMMAND = "python -m testbed.cli.documents"
WORDS = {
    float: "number",
    int: "count",
    bool: "flag",
    str: "text",
    NoneType: "null",
    Interval: "interval",
}
"""Types of the results, in words."""


def defences() -> str:
    """Return the registered defences with source and options, as a Markdown table."""
    rows = []
    for entry in DEFENCES:
        options = "<br>".join(
            f"`{name}` ({default(field)})" + (f": {field.description}" if field.description else "")
            for name, field in entry.options.model_fields.items()
        )
        rows.append((f"`{entry.name}`", entry.summary, entry.source, options))
    headings = ("defence", "what it does", "published in", "options (default)")
    return markdown_table(headings, rows)


def columns(table: TableName) -> str:
    """Return the columns of one of a run's tables, as a Markdown table."""
    rows = [(f"`{column.name}`", column.type, column.note) for column in TABLES[table]]
    return markdown_table(("column", "type", "content"), rows)


def figures() -> str:
    """Return the declared figures of an arm, as a Markdown table."""
    rows = [
        (
            figure.label,
            f"`{figure.path}`",
            f"`{figure.key}`" if "compare" in figure.places else "",
            f"`{figure.index_key}`" if "index" in figure.places else "",
            figure.better,
            figure.note,
        )
        for group in GROUPS
        for figure in group
    ]
    files = ("in an arm of results.json", "in entries.csv", "in index.csv")
    headings = ("figure", *files, "better", "content")
    return markdown_table(headings, rows)


def keys(model: type[Part]) -> str:
    """Return the keys of a file of results: a section in Markdown for each of its parts."""
    sections = []
    for part in _parts(model):
        inherited = Scores.model_fields if issubclass(part, Scores) and part is not Scores else {}
        rows = [
            (f"`{field.alias or name}`", _type(field.annotation), field.description or "")
            for name, field in part.model_fields.items()
            if name not in inherited
        ]
        if inherited:
            rows.append(("the scores", "interval", "as in `Scores`; absent where not taken"))
        if any(content for _, _, content in rows):
            body = markdown_table(("key", "type", "content"), rows)
        else:
            body = "Keys: " + ", ".join(f"{key} ({kind})" for key, kind, _ in rows) + "."
        note = inspect.cleandoc(part.__doc__ or "")
        sections.append(f"#### `{part.__name__}`\n\n{note}\n\n{body}")
    return "\n\n".join(sections)


def _parts(kind: Any) -> list[type[Part]]:
    """Return the parts of the results in an annotation and under them, in order of appearance."""
    if not (isinstance(kind, type) and issubclass(kind, Part)):
        return list(dict.fromkeys(part for item in get_args(kind) for part in _parts(item)))
    below = (part for field in kind.model_fields.values() for part in _parts(field.annotation))
    return list(dict.fromkeys([kind, *below]))


def _type(kind: Any) -> str:
    """Return an annotation in words."""
    choices = get_args(kind)
    if get_origin(kind) is Annotated:
        return _type(choices[0])
    if get_origin(kind) is list:
        return f"list of {_type(choices[0])}"
    if get_origin(kind) is dict:
        return f"{_type(choices[1])} by name"
    if get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in choices)
    if choices:
        return " or ".join(dict.fromkeys(_type(choice) for choice in choices))
    return WORDS.get(kind) or f"`{kind.__name__}`"


BLOCKS: Mapping[str, Callable[[], str]] = {
    "defences": defences,
    **{table: partial(columns, table) for table in TABLES},
    "figures": figures,
    "results.json": partial(keys, Summary),
    "host.json": partial(keys, HostFacts),
}
"""The blocks made from code, by their labels."""


def updated(path: Path) -> str:
    """Return a document with its blocks made from code, and the marks of older ones.

    Raises
    ------
    UserError : a block does not begin and end exactly once, or has an unknown label.
    """
    labels = [block.label or "" for block in blocks_of(path) if block.command == COMMAND]
    measured = [block for block in blocks_of(path) if block.command != COMMAND]
    if unknown := [label for label in labels if label not in BLOCKS]:
        raise UserError(f"{path}: no block '{unknown[0]}'; there are {', '.join(BLOCKS)}")
    made = {Block(COMMAND, label): BLOCKS[label]() for label in labels}
    marks = {block: marked(text) for block in measured if (text := text_of(path, block))}
    return replaced(path, made | marks)


@command
def main(arguments: list[str] | None = None) -> int:
    """Write or check the blocks; return 1 where one is out of date."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Write the blocks made from code.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where outdated")
    parser.add_argument(
        "--older", action="store_true",
        help="write nothing; list the measured tables that are older than what they describe",
    )  # fmt: skip
    parser.add_argument("documents", nargs="*", type=Path, help="default: README.md and docs/")
    options = parser.parse_args(arguments)
    every = [PROJECT_ROOT / "README.md", *sorted((PROJECT_ROOT / "docs").glob("*.md"))]
    if options.older:
        for path in options.documents or every:
            for block in blocks_of(path):
                if block.command != COMMAND and (reasons := why_older(text_of(path, block))):
                    label = f" ({block.label})" if block.label else ""
                    print(f"{path.name}: {block.command}{label}: {'; '.join(reasons)}")
        return 0
    texts = {path: updated(path) for path in options.documents or every}
    outdated = [path for path, text in texts.items() if path.read_text(encoding="utf-8") != text]
    for path in outdated:
        if not options.check:
            write_bytes(path, texts[path].encode("utf-8"))
        print(f"{'out of date' if options.check else 'wrote'}: {path}")
    return int(options.check and bool(outdated))


if __name__ == "__main__":
    sys.exit(main())
