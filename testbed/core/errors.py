"""Errors for users of the testbed."""

import re
import sys
from collections.abc import Callable
from functools import wraps

LONGEST_SENTENCE = 1000


def without_addresses(text: str) -> str:
    """Return a message without memory addresses, which Python adds to the names of objects."""
    return re.sub(r" at 0x[0-9a-fA-F]{6,}", "", text)


class UserError(Exception):
    """Bad input, explained in one sentence; the command line prints it and exits with code 2.

    The sentence may quote a damaged or hostile file, or the error of a library. It is therefore
    put on one line, control characters of terminals are escaped, memory addresses and the middle of
    a long sentence are left out.
    """

    def __init__(self, sentence: str) -> None:
        line = re.sub(r"\s*[\r\n]+\s*", " ", sentence).strip()
        line = without_addresses(line)
        line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
        if len(line) > LONGEST_SENTENCE:
            kept = LONGEST_SENTENCE // 2 - 3
            line = f"{line[:kept]} ... {line[-kept:]}"
        super().__init__(line)


class HostError(Exception):
    """A host or adversary process failed; the command line prints it and exits with code 1."""

    def __init__(self, sentence: str) -> None:
        super().__init__(without_addresses(sentence))


def command(main: Callable[[list[str] | None], int]) -> Callable[..., int]:
    """Make ``main`` of a command report errors in one sentence.

    Bad input ends the command with exit code 2, a failed host or a full disk with 1.
    """

    @wraps(main)
    def reported(arguments: list[str] | None = None) -> int:
        try:
            return main(arguments)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except HostError as error:
            print(f"failed: {error}", file=sys.stderr)
        except OSError as error:
            what = f"{error.filename}: " if error.filename else ""
            print(f"failed: {what}{error.strerror or error}", file=sys.stderr)
        return 1

    return reported
