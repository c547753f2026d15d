"""Blocks of a document that a command writes."""

import pytest

from testbed.core.errors import UserError
from testbed.core.project import PROJECT_ROOT
from testbed.pages.documents import (
    Block,
    blocks_of,
    markdown_table,
    measured_into,
    replaced,
    write_blocks,
)
from testbed.pages.origin import digest_of

SMOKE = PROJECT_ROOT / "scenarios" / "smoke.yaml"
PLAIN, FACES, DIGITS = Block("made"), Block("made", "faces"), Block("made", "digits")


def test_only_the_text_of_the_blocks_is_replaced(tmp_path):
    path = tmp_path / "page.md"
    parts = [f"{block.begin}\nold\n{block.end}" for block in (PLAIN, FACES, DIGITS)]
    path.write_text("before\n" + "\nbetween\n".join(parts) + "\nafter\n")
    write_blocks(path, {DIGITS: "new digits", PLAIN: "new"})
    assert path.read_text() == (
        "before\n<!-- made: begin -->\n\nnew\n\n<!-- made: end -->\n"
        "between\n<!-- made (faces): begin -->\nold\n<!-- made (faces): end -->\n"
        "between\n<!-- made (digits): begin -->\n\nnew digits\n\n<!-- made (digits): end -->\n"
        "after\n"
    )


def test_a_new_document_contains_only_the_blocks(tmp_path):
    path = tmp_path / "new" / "page.md"
    write_blocks(path, {FACES: "one", DIGITS: "two"})
    text = path.read_text()
    assert text.startswith(f"{FACES.begin}\n\none\n\n{FACES.end}\n\n{DIGITS.begin}\n\ntwo\n")
    write_blocks(path, {FACES: "one", DIGITS: "two"})
    assert path.read_text() == text


@pytest.mark.parametrize(
    "document",
    [
        "no marks\n",
        f"{PLAIN.begin}\n",
        f"{PLAIN.end}\n{PLAIN.begin}\n",
        f"{PLAIN.begin}\n{PLAIN.end}\n{PLAIN.begin}\n{PLAIN.end}\n",
        f"{FACES.begin}\n{FACES.end}\n",
    ],
)
def test_documents_without_the_block_are_rejected_and_stay_as_they_are(tmp_path, document):
    path = tmp_path / "page.md"
    path.write_text(document)
    with pytest.raises(UserError, match=r"page\.md: needs the lines '<!-- made: begin -->'"):
        write_blocks(path, {PLAIN: "new"})
    assert path.read_text() == document


def test_one_missing_block_stops_all_writes(tmp_path):
    path = tmp_path / "page.md"
    path.write_text(f"{FACES.begin}\n{FACES.end}\n")
    with pytest.raises(UserError, match=r"made \(digits\): begin"):
        write_blocks(path, {FACES: "one", DIGITS: "two"})
    assert path.read_text() == f"{FACES.begin}\n{FACES.end}\n"


@pytest.mark.parametrize("label", ["", "a b", "--x", "x>", "a" * 65])
def test_labels_are_names(label):
    with pytest.raises(UserError, match="--label"):
        Block("made", label)


def test_unreadable_documents_are_rejected(tmp_path):
    (tmp_path / "bytes.md").write_bytes(b"\xff\xfe")
    for path, said in ((tmp_path / "bytes.md", "not UTF-8"), (tmp_path, "cannot be read")):
        with pytest.raises(UserError, match=said):
            replaced(path, {PLAIN: ""})


@pytest.mark.parametrize(("sound", "code"), [(True, 0), (False, 1)])
def test_measured_text_is_printed_and_written(tmp_path, capsys, sound, code):
    path = tmp_path / "page.md"
    assert measured_into(path, PLAIN, lambda: ("found", sound), [SMOKE], [3]) == code
    begin, _, text, _, origin, _, end, _ = path.read_text().split("\n")
    assert (begin, text, end) == (PLAIN.begin, "found", PLAIN.end)
    assert origin.startswith("Origin: testbed ")
    assert origin.endswith(f"; `scenarios/smoke.yaml` {digest_of(SMOKE)}; seed 3.")
    assert capsys.readouterr().out == "found\n"
    assert measured_into(None, PLAIN, lambda: ("again", sound), [SMOKE], shown=False) == code
    assert capsys.readouterr().out == ""


def test_nothing_is_measured_for_a_document_without_the_block(tmp_path, capsys):
    path = tmp_path / "page.md"
    path.write_text("no marks\n")
    begun = []
    assert measured_into(path, PLAIN, lambda: (begun.append(1), ("", True))[1], [SMOKE]) == 2
    assert begun == []
    assert capsys.readouterr().err.startswith(f"error: {path}: needs the lines")


def test_an_error_while_measuring_leaves_the_document_unchanged(tmp_path, capsys):
    path = tmp_path / "page.md"
    path.write_text(f"{PLAIN.begin}\nold\n{PLAIN.end}\n")

    def refuse():
        raise UserError("no such data")

    assert measured_into(path, PLAIN, refuse, [SMOKE]) == 2
    assert capsys.readouterr() == ("", "error: no such data\n")
    assert "old" in path.read_text()


def test_blocks_are_found_by_their_own_lines_only(tmp_path):
    path = tmp_path / "page.md"
    path.write_text(
        f"A line such as `{PLAIN.begin}` begins a block.\n{FACES.begin}\n{FACES.end}\n"
        f"{PLAIN.begin}\nold\n{PLAIN.end}\n"
    )
    assert blocks_of(path) == [FACES, PLAIN]
    write_blocks(path, {PLAIN: "new"})
    assert path.read_text().startswith(f"A line such as `{PLAIN.begin}` begins a block.\n")
    path.write_text(f"{FACES.begin}\n")
    with pytest.raises(UserError, match=r"made \(faces\): end"):
        blocks_of(path)


def test_tables_escape_column_separators():
    table = markdown_table(("name", "count"), [("a|b", "1")], numbers=1)
    assert table == "| name | count |\n|---|---:|\n| a\\|b | 1 |"
