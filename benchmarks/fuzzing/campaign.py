"""Runs generated cases against a target and counts the outcomes."""

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings

from fuzzing.targets import Target
from testbed.core.errors import UserError

LONGEST_SENTENCE = 1001


def check_sentence(error: UserError) -> None:
    """Fail unless the message is one line, and not too long."""
    text = str(error)
    assert text.strip(), "an empty message"
    assert "\n" not in text, f"more than one line: {text!r}"
    assert len(text) < LONGEST_SENTENCE, f"{len(text)} characters: {text[:200]}..."
    assert "Traceback" not in text


def run(target: Target, cases: int) -> Counter[str]:
    """Run the target's reader on generated files; return the numbers of accepted and refused cases.

    Raises
    ------
    Exception : any other exception of a reader, with the smallest case that raises it; an
        AssertionError if it unpickled something or changed files that it must not change.
    """
    counts: Counter[str] = Counter()

    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        derandomize=False,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    @given(target.contents)
    def case(content: bytes) -> None:
        counts[feed(target, content)] += 1

    case()
    return counts


def feed(target: Target, content: bytes) -> str:
    """Pass one file to the target's reader; return ``accepted`` or ``refused``."""
    target.path.write_bytes(content)
    before = everything_in(target.kept)
    refusal = None
    with nothing_unpickled():
        try:
            target.read(target.path)
        except UserError as error:
            refusal = error
    assert everything_in(target.kept) == before, f"files were changed, although: {refusal}"
    if refusal is None:
        return "accepted"
    check_sentence(refusal)
    return "refused"


def everything_in(folder: Path | None) -> dict[str, bytes]:
    """Return the bytes of every file in a folder by its path, and its folders."""
    if folder is None:
        return {}
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


# Pickles ----------------------------------------------------------------------------------------

_watched = False
_unpickled: list[Any] = []


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if _watched and event == "pickle.find_class":
        _unpickled.append(arguments)


sys.addaudithook(_note)


@contextlib.contextmanager
def nothing_unpickled() -> Iterator[None]:
    """Fail if any pickle is loaded: every pickle could name a class or a function.

    Raises
    ------
    AssertionError : names the class or function in the pickle.
    """
    global _watched
    _unpickled.clear()
    _watched = True
    try:
        yield
    finally:
        _watched = False
    assert not _unpickled, f"something was unpickled: {_unpickled}"
