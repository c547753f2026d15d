"""One kind of file to fuzz: valid files, how they are damaged, and their reader."""

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
    path : where the files are written.
    read : reads the file; may raise ``UserError`` only.
    sound : valid files, which must be accepted.
    weight : its share of the cases, relative to other targets.
    kept : a folder that a refusal must not change, for a command that writes there.
    may_refuse : False if the reader must accept damaged files.
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
    """Return any tree as YAML."""
    return yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass")


def json_bytes(tree: object) -> bytes:
    """Return any tree as JSON."""
    return json.dumps(tree).encode("utf-8", "surrogatepass")
