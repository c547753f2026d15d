"""A short fuzzing campaign over all readers, and the failures that a campaign must detect."""

import math
import pickle
from pathlib import Path

import pytest
from fuzzing.campaign import feed, run
from fuzzing.hostile import HOSTILE_YAML, hostile_pickle
from fuzzing.inputs import input_targets
from fuzzing.mutations import damaged_bytes, damaged_tables, damaged_trees, places
from fuzzing.results import result_targets
from fuzzing.targets import Target
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.core.errors import UserError
from testbed.scenario.loading import parse_yaml

ROOT = Path(__file__).resolve().parents[2]
CASES = 12
MOST_CAMPAIGNS = 20


@pytest.fixture
def targets(tmp_path, finished_run):
    made = input_targets(tmp_path / "inputs", ROOT / "scenarios", None)
    return made + result_targets(tmp_path / "results", finished_run)


def test_readers_accept_valid_files_and_accept_or_refuse_damaged_ones(targets):
    for target in targets:
        assert target.sound, target.name
        for content in target.sound:
            assert feed(target, content) == "accepted", target.name
        cases = math.ceil(CASES * target.weight)
        counts = run(target, cases)
        assert counts.total() >= cases
        for _ in range(MOST_CAMPAIGNS):  # a few random cases may all be harmless
            if target.may_refuse and not counts["refused"]:
                counts += run(target, cases)
        assert counts["refused"] > 0 or not target.may_refuse, target.name


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


def test_a_refusal_that_has_written_ends_the_campaign(tmp_path):
    kept = tmp_path / "results"
    kept.mkdir()

    def read(path):
        (kept / "results.json").write_text("half")
        raise UserError("bad input")

    target = Target("any", st.binary(), tmp_path / "file", read, kept=kept)
    with pytest.raises(AssertionError, match=r"changed, although: bad input"):
        feed(target, b"x")


def test_unpickling_ends_the_campaign(tmp_path):
    def read(path):
        try:
            pickle.loads(path.read_bytes())
        except pickle.UnpicklingError:
            raise UserError("no pickle") from None

    target = Target("any", st.binary(), tmp_path / "file", read)
    assert feed(target, b"x") == "refused"
    with pytest.raises(AssertionError, match=r"unpickled.*open"):
        feed(target, hostile_pickle())


@pytest.mark.parametrize("number", range(len(HOSTILE_YAML)))
def test_bombs_and_tags_are_refused(number):
    with pytest.raises(UserError, match="a file") as caught:
        parse_yaml(HOSTILE_YAML[number], "a file")
    assert len(str(caught.value)) < 200


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
