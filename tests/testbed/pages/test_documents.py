"""Text between two marks of a document."""

import pytest

from testbed.core.errors import UserError
from testbed.pages.documents import labelled, measured_into, replaced, write_between

PLAIN, FACES, DIGITS = labelled("made"), labelled("made", "faces"), labelled("made", "digits")


def test_only_what_stands_between_the_marks_is_replaced(tmp_path):
    path = tmp_path / "page.md"
    parts = [f"{marks.begin}\nold\n{marks.end}" for marks in (PLAIN, FACES, DIGITS)]
    path.write_text("before\n" + "\nbetween\n".join(parts) + "\nafter\n")
    write_between(path, (DIGITS, "new digits"), (PLAIN, "new"))
    assert path.read_text() == (
        "before\n<!-- made: begin -->\n\nnew\n\n<!-- made: end -->\n"
        "between\n<!-- made faces: begin -->\nold\n<!-- made faces: end -->\n"
        "between\n<!-- made digits: begin -->\n\nnew digits\n\n<!-- made digits: end -->\nafter\n"
    )


def test_a_new_document_holds_the_texts_alone(tmp_path):
    path = tmp_path / "new" / "page.md"
    write_between(path, (FACES, "one"), (DIGITS, "two"))
    text = path.read_text()
    assert text.startswith(f"{FACES.begin}\n\none\n\n{FACES.end}\n\n{DIGITS.begin}\n\ntwo\n")
    write_between(path, (FACES, "one"), (DIGITS, "two"))
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
def test_documents_without_the_marks_are_refused_and_stay_as_they_are(tmp_path, document):
    path = tmp_path / "page.md"
    path.write_text(document)
    with pytest.raises(UserError, match=r"page\.md: needs the lines '<!-- made: begin -->'"):
        write_between(path, (PLAIN, "new"))
    assert path.read_text() == document


def test_one_text_without_its_marks_keeps_all_of_them_out(tmp_path):
    path = tmp_path / "page.md"
    path.write_text(f"{FACES.begin}\n{FACES.end}\n")
    with pytest.raises(UserError, match="made digits: begin"):
        write_between(path, (FACES, "one"), (DIGITS, "two"))
    assert path.read_text() == f"{FACES.begin}\n{FACES.end}\n"


@pytest.mark.parametrize("label", ["", "a b", "--x", "x>", "a" * 65])
def test_labels_are_names(label):
    with pytest.raises(UserError, match="--label"):
        labelled("made", label)


def test_what_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "bytes.md").write_bytes(b"\xff\xfe")
    for path, said in ((tmp_path / "bytes.md", "not UTF-8"), (tmp_path, "cannot be read")):
        with pytest.raises(UserError, match=said):
            replaced(path, [(PLAIN, "")])


@pytest.mark.parametrize(("sound", "code"), [(True, 0), (False, 1)])
def test_what_was_measured_is_printed_and_written(tmp_path, capsys, sound, code):
    path = tmp_path / "page.md"
    assert measured_into(path, PLAIN, lambda: ("found", sound)) == code
    assert path.read_text() == f"{PLAIN.begin}\n\nfound\n\n{PLAIN.end}\n"
    assert capsys.readouterr().out == "found\n"
    assert measured_into(None, PLAIN, lambda: ("again", sound), shown=False) == code
    assert capsys.readouterr().out == ""


def test_nothing_is_measured_for_a_document_without_marks(tmp_path, capsys):
    path = tmp_path / "page.md"
    path.write_text("no marks\n")
    begun = []
    assert measured_into(path, PLAIN, lambda: (begun.append(1), ("", True))[1]) == 2
    assert begun == []
    assert capsys.readouterr().err.startswith(f"{path}: needs the lines")


def test_a_refusal_while_measuring_leaves_the_document_as_it_was(tmp_path, capsys):
    path = tmp_path / "page.md"
    path.write_text(f"{PLAIN.begin}\nold\n{PLAIN.end}\n")

    def refuse():
        raise UserError("no such data")

    assert measured_into(path, PLAIN, refuse) == 2
    assert capsys.readouterr() == ("", "no such data\n")
    assert "old" in path.read_text()
