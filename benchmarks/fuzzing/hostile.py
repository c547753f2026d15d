"""YAML that attacks its reader: documents that must always be refused."""

import os
import pickle

_LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)

HOSTILE_YAML = (
    # bombs: small files that would be large objects
    _LAUGHS,
    "a: &a [*a]\n",
    "a: &a {b: 1}\nc: {<<: *a}\n",
    "a: {<<: {b: 1}}\n",
    f"a: &a {'x' * 10_000}\nb: [{', '.join(['*a'] * 1000)}]\n",
    f"a: {'[' * 5000}\n",
    f"a: {'{b: ' * 5000}\n",
    f"a: 0x{'f' * 5000}\n",
    f"a: {'1' * 5000}\n",
    f"a: 0{'7' * 5000}\n",
    # tags: objects of other types, of Python's or anybody's
    "a: !!python/object/apply:os.system ['id']\n",
    "a: !!python/object/new:os.system ['id']\n",
    "a: !!python/object:os.system {}\n",
    "a: !!python/name:os.system ''\n",
    "a: !!python/module:os ''\n",
    "a: !!python/tuple [1, 2]\n",
    "a: !<tag:yaml.org,2002:python/object/apply:os.system> ['id']\n",
    "%TAG ! tag:yaml.org,2002:python/\n---\na: !object/apply:os.system ['id']\n",
    "a: !!binary aGVsbG8=\n",
    "a: !!set {b, c}\n",
    "a: !!omap [b: 1]\n",
    "a: !!timestamp x\n",
    "a: !!int ''\n",
    "a: !!bool x\n",
    "a: !!str x\n",
    "a: !own x\n",
    "a: ! x\n",
    # mappings that Python could not have, or that have two meanings
    "? [a, b]\n: c\n",
    "a: 1\na: 2\n",
    "1: 2\n",
    "a: 1\n---\nb: 2\n",
)


class _OpensAFile:
    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return os.open, (os.devnull, os.O_RDONLY)


def hostile_pickle() -> bytes:
    """Return a pickle that calls a function when it is unpickled."""
    return pickle.dumps(_OpensAFile())
