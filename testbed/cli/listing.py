"""``--list``: all registered components, devices and links.

To list the components, all of them are imported, and with them torch. The tables are therefore kept
beside Python's own compiled modules, and made anew when a file of the project changes, a component
is added, or Flower has another version, whose strategies are listed too.
"""

import contextlib
import importlib.metadata
import importlib.util
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from testbed.cli.tables import table
from testbed.core.files import write_text
from testbed.core.project import source_digest, source_files

if TYPE_CHECKING:
    from testbed.cli.components import Section


def print_listing(console: Console | None = None) -> None:
    """Print the registered components with their options, then devices and links."""
    console = console or Console()
    for title, headings, rows in _sections():
        made = table(title, *headings)
        for column in made.columns[2:]:
            column.style = "dim"
        for row in rows:
            made.add_row(*row)
        console.print(made)
        console.print()


def _sections() -> "list[Section]":
    """Return the tables, kept or new."""
    kept = Path(importlib.util.cache_from_source(__file__)).with_suffix(".json")
    made_from = source_files(".py", ".csv") | {
        library: importlib.metadata.version(library).encode() for library in ("flwr", "pydantic")
    }
    key = source_digest(made_from)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(kept.read_text(encoding="utf-8"))
        if known["made_from"] == key:
            sections: list[Section] = known["sections"]
            return sections
    from testbed.cli.components import sections as made  # imports all components

    new = made()
    if not sys.dont_write_bytecode:
        with contextlib.suppress(OSError):
            kept.parent.mkdir(exist_ok=True)
            write_text(kept, json.dumps({"made_from": key, "sections": new}))
    return new
