"""One kind of file to fuzz: sound ones, how they are damaged, and who reads them."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml
from hypothesis import strategies as st


@dataclass(frozen=True)
class Target:
    """One kind of file.

    Attributes
    ----------
    contents : generates the bytes of a file.
    path : where they go.
    read : reads the file; may raise ``UserError`` and nothing else.
    sound : undamaged files, all of which are accepted.
    weight : its share of the cases, relative to the others'.
    kept : the folder in which a refusal changes nothing, for a command that would write there.
    may_refuse : False where damage has to be got over without a sentence.
    """

    name: str
    contents: st.SearchStrategy[bytes]
    path: Path
    read: Callable[[Path], object]
    sound: tuple[bytes, ...] = ()
    weight: float = 1.0
    kept: Path | None = None
    may_refuse: bool = True


def yaml_bytes(tree: object) -> bytes:
    """Return a tree as YAML, whatever is in it."""
    return yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass")


def json_bytes(tree: object) -> bytes:
    """Return a tree as JSON, whatever is in it."""
    return json.dumps(tree).encode("utf-8", "surrogatepass")
