"""Messages are one line of limited length without control characters, whatever they quote."""

import pickle

from testbed.core.errors import LONGEST_SENTENCE, HostError, UserError


def test_a_sentence_is_one_line_without_control_characters():
    assert str(UserError("a.yaml: bad\n  because\r\nof this\n")) == "a.yaml: bad because of this"
    assert str(UserError("key '\x1b[2J\x00\u202e'")) == "key '\\x1b[2J\\x00\\u202e'"
    assert str(UserError("größer als 3 μs, 日本")) == "größer als 3 μs, 日本"


def test_a_long_sentence_loses_its_middle():
    said = str(UserError("start " + "x" * 5000 + " allowed: a, b"))
    assert len(said) <= LONGEST_SENTENCE
    assert said.startswith("start ")
    assert said.endswith("allowed: a, b")


def test_it_can_be_pickled():
    assert str(pickle.loads(pickle.dumps(UserError("a\nb")))) == "a b"


def test_memory_addresses_are_left_out():
    for kind in (UserError, HostError):
        assert str(kind(f"cannot identify {object()}")) == "cannot identify <object object>"
        assert str(kind("starts at 0x1f")) == "starts at 0x1f"
    assert str(pickle.loads(pickle.dumps(HostError("a process died")))) == "a process died"
