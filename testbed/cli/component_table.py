"""Tables of registered components for the documentation, so that it cannot go stale.

``python -m testbed.cli.component_table`` writes the table of defences into docs/defences.md; a test
compares the two.
"""

from typing import Any

from pydantic.fields import FieldInfo

from testbed.core.project import PROJECT_ROOT
from testbed.core.registries import DEFENCES
from testbed.core.registry import Entry
from testbed.scenario.components import Component

DOCUMENT = PROJECT_ROOT / "docs" / "defences.md"
BEGIN = "<!-- table: python -m testbed.cli.component_table -->"
END = "<!-- end of table -->"


def defences_as_markdown() -> str:
    """Return the registered defences with source and options, as a Markdown table."""
    lines = ["| defence | what it does | published in | options (default) |", "|---|---|---|---|"]
    for entry in DEFENCES:
        options = "<br>".join(
            _option(name, field) for name, field in entry.options.model_fields.items()
        )
        lines.append(f"| `{entry.name}` | {entry.summary} | {_source(entry)} | {options} |")
    return "\n".join(lines)


def _option(name: str, field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    default = value.name if isinstance(value, Component) else str(value)
    meaning = f": {field.description}" if field.description else ""
    return f"`{name}` ({default}){meaning}".replace("|", "\\|")


def _source(entry: Entry[Any]) -> str:
    return entry.source.replace("|", "\\|")


def with_table(text: str) -> str:
    """Return a document with the part between the two markers replaced by the current table."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{defences_as_markdown()}\n{END}{after}"


if __name__ == "__main__":
    DOCUMENT.write_text(with_table(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote {DOCUMENT}")
