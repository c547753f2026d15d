"""A short fuzzing campaign over every reader, and the campaign itself: it fails when it should."""

from pathlib import Path

import pytest
from fuzzing.campaign import run
from fuzzing.mutations import damaged_bytes, damaged_tables, damaged_trees, places
from fuzzing.targets import Target, input_targets, result_targets, sound_parquet
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.core.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
CASES = 25


def test_every_reader_accepts_a_file_or_refuses_it_in_a_sentence(tmp_path, finished_run):
    targets = input_targets(tmp_path / "inputs", ROOT / "scenarios", None)
    targets += result_targets(tmp_path / "results", finished_run)
    for target in targets:
        counts = run(target, CASES)
        assert counts.total() >= CASES
        assert counts["refused"] > 0, target.name


@pytest.mark.parametrize(
    ("raised", "caught"),
    [(KeyError("a"), KeyError), (UserError(""), AssertionError), (MemoryError(), MemoryError)],
)
def test_anything_but_a_sentence_ends_the_campaign(tmp_path, raised, caught):
    def read(path):
        if len(path.read_bytes()) > 1:
            raise raised

    target = Target("any", damaged_bytes(b"abcdef"), tmp_path / "file", read)
    with pytest.raises(caught):
        run(target, 50)


def test_places_of_a_tree():
    assert list(places({"a": [1, {"b": 2}]})) == [
        (), ("a",), ("a", 0), ("a", 1), ("a", 1, "b"),
    ]  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(damaged_trees({"a": [1, 2], "b": {"c": "d"}}), damaged_tables("a,b\n1,2\n"), st.data())
def test_the_valid_original_is_left_as_it_was(tree, text, data):
    valid = {"a": [1, 2], "b": {"c": "d"}}
    data.draw(damaged_trees(valid))
    assert valid == {"a": [1, 2], "b": {"c": "d"}}
    assert text.endswith("\n")


def test_an_undamaged_parquet_file_is_accepted(tmp_path):
    targets = {t.name: t for t in input_targets(tmp_path / "inputs", ROOT / "scenarios", None)}
    target = targets["images, parquet"]
    target.path.write_bytes(sound_parquet())
    target.read(target.path)
