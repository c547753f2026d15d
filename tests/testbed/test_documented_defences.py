"""docs/defences.md shows what is registered."""

from testbed.cli.component_table import BEGIN, DOCUMENT, END, defences_as_markdown, with_table
from testbed.core.registries import DEFENCES


def test_the_table_in_the_docs_is_the_one_the_command_writes():
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1
    assert with_table(text) == text, "run: python -m testbed.cli.component_table"


def test_every_defence_has_a_row_with_its_options_and_its_source():
    rows = defences_as_markdown().splitlines()[2:]
    assert len(rows) == len(DEFENCES.names())
    for entry, row in zip(DEFENCES, rows, strict=True):
        assert row.startswith(f"| `{entry.name}` | {entry.summary} |")
        assert all(f"`{option}` (" in row for option in entry.options.model_fields)
        assert entry.source or entry.name == "none"
        assert row.replace("\\|", "").count("|") == 5
