"""The blocks of docs that are made from code, and the command that writes and checks them."""

import pytest

from testbed.cli.documents import BLOCKS, COMMAND, defences, main, updated
from testbed.core.project import PROJECT_ROOT
from testbed.core.registries import DEFENCES
from testbed.pages.documents import Block


def test_every_block_of_the_docs_is_up_to_date_and_has_its_two_lines(capsys):
    assert main(["--check"]) == 0, capsys.readouterr().out


@pytest.mark.parametrize("label", BLOCKS)
def test_every_block_made_from_code_is_in_the_docs_once(label):
    texts = [path.read_text(encoding="utf-8") for path in (PROJECT_ROOT / "docs").glob("*.md")]
    assert sum(text.count(Block(COMMAND, label).begin) for text in texts) == 1


def test_every_defence_has_a_row_with_its_options_and_its_source():
    rows = defences().splitlines()[2:]
    assert len(rows) == len(DEFENCES.names())
    for entry, row in zip(DEFENCES, rows, strict=True):
        assert row.startswith(f"| `{entry.name}` | {entry.summary} |")
        assert all(f"`{option}` (" in row for option in entry.options.model_fields)
        assert entry.source or entry.name == "none"
        assert row.replace("\\|", "").count("|") == 5


def test_an_outdated_block_is_reported_and_rewritten(tmp_path, capsys):
    path, block = tmp_path / "page.md", Block(COMMAND, "rounds")
    path.write_text(f"before\n{block.begin}\nold\n{block.end}\n")
    assert main(["--check", str(path)]) == 1
    assert capsys.readouterr().out == f"out of date: {path}\n"
    assert "old" in path.read_text()
    assert main([str(path)]) == 0
    assert path.read_text() == updated(path)
    assert f"{block.begin}\n\n{BLOCKS['rounds']()}\n\n{block.end}\n" in path.read_text()
    assert main(["--check", str(path)]) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"<!-- {COMMAND} (rownds): begin -->\n<!-- {COMMAND} (rownds): end -->\n", "no block"),
        ("<!-- python measure.py: begin -->\n", "needs the lines"),
    ],
)
def test_documents_with_unknown_or_open_blocks_are_rejected(tmp_path, capsys, text, message):
    path = tmp_path / "page.md"
    path.write_text(text)
    assert main(["--check", str(path)]) == 2
    assert f"error: {path}: {message}" in capsys.readouterr().err
