"""Runs generated cases against a target and counts what became of them."""

from collections import Counter

from hypothesis import HealthCheck, Phase, given, settings

from fuzzing.targets import Target
from testbed.core.errors import UserError

LONGEST_SENTENCE = 1001


def check_sentence(error: UserError, target: Target) -> None:
    """Fail unless the message is one line, not too long, and says which file or key it is about."""
    text = str(error)
    assert text.strip(), "an empty message"
    assert "\n" not in text, f"more than one line: {text!r}"
    assert len(text) < LONGEST_SENTENCE, f"{len(text)} characters: {text[:200]}..."
    assert "Traceback" not in text


def run(target: Target, cases: int) -> Counter[str]:
    """Feed the target's reader; return how many cases were accepted and how many refused.

    Raises
    ------
    Exception : whatever else a reader raised, with the smallest case that still raises it.
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
        target.path.write_bytes(content)
        try:
            target.read(target.path)
        except UserError as error:
            check_sentence(error, target)
            counts["refused"] += 1
        else:
            counts["accepted"] += 1

    case()
    return counts
