"""Errors that are meant to be read by the person who runs the testbed."""

import re

LONGEST_SENTENCE = 1000


class UserError(Exception):
    """Bad input, said in one clear sentence; the command line prints it and exits with code 2.

    What the sentence quotes may come from a damaged or hostile file: it is put on one line, without
    characters that a terminal would act on, and what is too long to read loses its middle.
    """

    def __init__(self, sentence: str) -> None:
        line = re.sub(r"\s*[\r\n]+\s*", " ", sentence).strip()
        line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
        if len(line) > LONGEST_SENTENCE:
            kept = LONGEST_SENTENCE // 2 - 3
            line = f"{line[:kept]} ... {line[-kept:]}"
        super().__init__(line)


class HostError(Exception):
    """A host or adversary process failed; the command line prints it and exits with code 1."""
