"""Strategies that damage a valid file: its bytes, its text, or one place in its tree."""

import copy
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

Tree = Any
Place = tuple[Any, ...]

HOSTILE_TEXTS = (
    "",
    "../../outside",
    "/etc/passwd",
    "a/b",
    "..",
    "CON",
    "x" * 5000,
    "\x00",
    "\u202egnp.exe",
    "nan",
    "${HOME}",
    "!!python/object/apply:os.system [id]",
    "<script>alert(1)</script>",
)
HOSTILE_NUMBERS = (
    0, -1, 1, 2**31, 2**63, 10**30, 10**400, -(10**400), 0.0, -0.0, 1e-320, 1e308, -1e308,
    float("nan"), float("inf"), float("-inf"),
)  # fmt: skip

leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(HOSTILE_NUMBERS),
    st.sampled_from(HOSTILE_TEXTS),
    st.integers(-5, 5),
    st.floats(-2.0, 2.0),
    st.text(max_size=8),
)
junk = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)


def places(tree: Tree, here: Place = ()) -> Iterator[Place]:
    """Yield the path of every node of a tree of mappings and lists, the root first."""
    yield here
    if isinstance(tree, dict | list):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from places(value, (*here, key))


@st.composite
def damaged_trees(draw: st.DrawFn, valid: Tree) -> Tree:
    """Return the tree with one to three places replaced, removed, repeated or extended."""
    tree = copy.deepcopy(valid)
    for _ in range(draw(st.integers(1, 3))):
        known = list(places(tree))[1:]
        if not known:
            return draw(junk)
        path = draw(st.sampled_from(known))
        parent = tree
        for key in path[:-1]:
            parent = parent[key]
        key = path[-1]
        how = draw(st.sampled_from(("replace", "remove", "add", "wrap", "swap")))
        if how == "remove":
            del parent[key]
        elif how == "add" and isinstance(parent, dict):
            parent[draw(st.text(min_size=1, max_size=12))] = draw(junk)
        elif how == "add":
            parent.insert(key, copy.deepcopy(parent[key]))
        elif how == "wrap":
            parent[key] = draw(st.sampled_from(([parent[key]], {"name": parent[key]}, [[]])))
        elif how == "swap":
            other = tree
            for step in draw(st.sampled_from(known)):
                if not isinstance(other, dict | list):
                    break
                try:
                    other = other[step]
                except (KeyError, IndexError):
                    break
            parent[key] = copy.deepcopy(other)
        else:
            parent[key] = draw(junk)
    return tree


@st.composite
def damaged_bytes(draw: st.DrawFn, valid: bytes) -> bytes:
    """Return the bytes with a part overwritten, removed or repeated, or truncated."""
    data = bytearray(valid)
    for _ in range(draw(st.integers(1, 4))):
        if not data:
            break
        start = draw(st.integers(0, len(data) - 1))
        end = min(len(data), start + draw(st.sampled_from((1, 2, 4, 8, 64))))
        how = draw(st.sampled_from(("overwrite", "remove", "repeat", "cut", "insert")))
        if how == "overwrite":
            data[start:end] = draw(st.binary(min_size=end - start, max_size=end - start))
        elif how == "remove":
            del data[start:end]
        elif how == "repeat":
            data[start:start] = data[start:end] * draw(st.integers(1, 4))
        elif how == "cut":
            del data[start:]
        else:
            data[start:start] = draw(st.one_of(st.binary(max_size=8), _SNIPPETS))
    return bytes(data)


_SNIPPETS = st.sampled_from(
    (
        b"\n- !!python/object/apply:os.system ['id']\n",
        b"&a [*a, *a]",
        b"{{{{",
        b"\xff\xfe\x00",
        b"\n\t",
        b"'",
        b'"',
        b"#",
        b": ",
        b"[" * 200,
        b"1" * 400,
    )
)


@st.composite
def damaged_tables(draw: st.DrawFn, valid: str) -> str:
    """Return a CSV text with one to three cells, rows or columns changed."""
    rows = [line.split(",") for line in valid.strip("\n").split("\n")]
    for _ in range(draw(st.integers(1, 3))):
        row = draw(st.integers(0, len(rows) - 1))
        if not rows[row]:
            continue
        column = draw(st.integers(0, len(rows[row]) - 1))
        how = draw(st.sampled_from(("cell", "cell", "cell", "drop row", "twice", "short", "long")))
        if how == "cell":
            rows[row][column] = str(draw(leaves))
        elif how == "drop row" and len(rows) > 1:
            del rows[row]
        elif how == "twice":
            rows.insert(row, list(rows[row]))
        elif how == "short":
            del rows[row][column]
        else:
            rows[row].insert(column, str(draw(leaves)))
    return "\n".join(",".join(row) for row in rows) + "\n"
