"""What a message quotes cannot break it: one line, nothing for a terminal to act on, readable."""

import pickle

from testbed.core.errors import LONGEST_SENTENCE, UserError


def test_a_sentence_is_one_line_without_control_characters():
    assert str(UserError("a.yaml: bad\n  because\r\nof this\n")) == "a.yaml: bad because of this"
    assert str(UserError("key '\x1b[2J\x00\u202e'")) == "key '\\x1b[2J\\x00\\u202e'"
    assert str(UserError("größer als 3 μs, 日本")) == "größer als 3 μs, 日本"


def test_a_long_sentence_loses_its_middle():
    said = str(UserError("start " + "x" * 5000 + " allowed: a, b"))
    assert len(said) <= LONGEST_SENTENCE
    assert said.startswith("start ")
    assert said.endswith("allowed: a, b")


def test_it_travels_between_processes():
    assert str(pickle.loads(pickle.dumps(UserError("a\nb")))) == "a b"
