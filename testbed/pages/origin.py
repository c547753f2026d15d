"""The origin of a measured table: versions, scenario or program, seeds; and what changed since.

Every command that measures a table writes one line below it:

    Origin: testbed 0.2.0, torch 2.13.0; `scenarios/smoke.yaml` 1f0c8a94b2d7; seeds 0, 1.

The hash after a scenario is of the keys that its file sets, without those that change no figure;
that after a Python file or folder is of its code, without comments and docstrings.
"""

import ast
import importlib.metadata
import json
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.core.errors import UserError
from testbed.core.project import PROJECT_ROOT, VERSION, source_digest
from testbed.scenario.loading import load_scenario, read_tree

LIBRARIES = ("torch", "flwr", "ray", "numpy", "scikit-learn")
"""Their versions are part of the line where a run does not state its own."""

NO_FIGURE = ("name", "description", "seed", "engine")
"""Keys of a scenario that are stated separately, or change no figure."""

OUT_OF_DATE = "> **May be out of date:** "
_LINE = re.compile(r"^Origin: testbed (\S+?),.*\.$", re.MULTILINE)
_INPUT = re.compile(r"`([^`]+)` ([0-9a-f]{12})")
_DIGITS = 12


@dataclass(frozen=True)
class Origin:
    """Where a table comes from.

    Attributes
    ----------
    inputs : a scenario, Python file or folder, relative to the project, and how the runs differ
        from it: key paths with both values, empty where they do not.
    versions : of the testbed and the libraries that made the table.
    command : what made the table; None where the table states it elsewhere.
    others : inputs that are not the project's, with their hash; nothing can check them later.
    """

    inputs: Mapping[str, Sequence[str]]
    seeds: Sequence[int] = ()
    versions: Mapping[str, str] | None = None
    command: str | None = None
    others: Sequence[str] = ()

    def line(self) -> str:
        """Return the line below the table.

        Raises
        ------
        UserError : an input does not exist.
        """
        versions = self.versions or _installed()
        parts = [", ".join(f"{name} {version}" for name, version in versions.items())]
        if self.command is not None:
            parts.append(self.command)
        for name, changes in self.inputs.items():
            digest = digest_of(PROJECT_ROOT / name)
            parts.append(f"`{name}` {digest}" + (f" with {', '.join(changes)}" if changes else ""))
        parts += self.others
        if self.seeds:
            word = "seed" if len(self.seeds) == 1 else "seeds"
            parts.append(f"{word} {', '.join(map(str, self.seeds))}")
        return f"Origin: {'; '.join(parts)}."


def of_files(inputs: Iterable[Path], seeds: Sequence[int] = ()) -> Origin:
    """Return the origin of a table that the running command measures now.

    Parameters
    ----------
    inputs : the scenarios, or the Python files and folders, that decide the figures.
    """
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    command = f"`{shlex.join(['python', _relative(Path(sys.argv[0])), *words])}`"
    own, others = [], []
    for path in map(Path.resolve, inputs):
        if path.is_relative_to(PROJECT_ROOT):
            own.append(path)
        else:
            others.append(f"{path.name} {digest_of(path)}, which is not the project's")
    return Origin({_relative(path): () for path in own}, seeds, command=command, others=others)


def of_run(
    name: str, resolved: Mapping[str, Any], seeds: Sequence[int], versions: Mapping[str, str]
) -> Origin:
    """Return the origin of a table made from finished runs of one scenario.

    Parameters
    ----------
    name : of the scenario; the project's own are in ``scenarios/``.
    resolved : the scenario as a run used it, with all defaults.
    """
    path = PROJECT_ROOT / "scenarios" / f"{name}.yaml"
    if not path.is_file():
        return Origin({}, seeds, versions, f"scenario {name}, which is not the project's")
    current = load_scenario(path).model_dump(mode="json")
    return Origin({_relative(path): _changes(resolved, current)}, seeds, versions)


def _changes(used: Mapping[str, Any], file: Mapping[str, Any]) -> list[str]:
    """Return the key paths whose values differ, as "key value instead of value"."""
    ours, its = dict(_leaves(used)), dict(_leaves(file))
    return [
        f"{key} {_shown(ours.get(key))} instead of {_shown(its.get(key))}"
        for key in dict.fromkeys([*its, *ours])
        if ours.get(key) != its.get(key)
    ]


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, list) and all(isinstance(part, dict) and "name" in part for part in node):
        node = {part["name"]: part for part in node}
    if isinstance(node, dict) and (node or not path):
        for key, below in node.items():
            if path or key not in NO_FIGURE:
                yield from _leaves(below, f"{path}.{key}" if path else str(key))
    else:
        yield path, node


def _shown(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value).replace("`", "'")


def digest_of(path: Path) -> str:
    """Return the first digits of the hash of a scenario, or of the code of a file or folder.

    Raises
    ------
    UserError : there is no such file, or it is not valid.
    """
    if path.suffix == ".yaml":
        tree = {key: value for key, value in read_tree(path).items() if key not in NO_FIGURE}
        content = json.dumps(tree, sort_keys=True, default=str).encode()
        return source_digest({"": content})[:_DIGITS]
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    try:
        code = {str(file.relative_to(path.parent)): _code(file) for file in files}
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if not code:
        raise UserError(f"{path}: no such file or folder of code")
    return source_digest(code)[:_DIGITS]


def _code(file: Path) -> bytes:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [part for part in body if not _is_text(part)]  # type: ignore[attr-defined]
    return ast.dump(tree).encode()


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def why_older(text: str) -> list[str]:
    """Return why a measured table does not describe the project as it is; empty if it does.

    A block without a table, such as an example of its two lines, is never older.
    """
    if "|" not in text:
        return []
    line = _LINE.search(text)
    if line is None:
        return ["made with testbed 0.1 or earlier, before tables stated their origin"]
    reasons = []
    if _minor(line[1]) != _minor(VERSION):
        reasons.append(f"made with testbed {line[1]}, this is {VERSION}")
    for name, digest in _INPUT.findall(line[0]):
        try:
            if digest_of(PROJECT_ROOT / name) != digest:
                reasons.append(f"`{name}` has changed since")
        except UserError:
            reasons.append(f"`{name}` no longer exists")
    return reasons


def marked(text: str) -> str:
    """Return the text of a block with a first line that says why it is older, where it is."""
    kept = "\n".join(line for line in text.split("\n") if not line.startswith(OUT_OF_DATE)).strip(
        "\n"
    )
    reasons = why_older(kept)
    return f"{OUT_OF_DATE}{'; '.join(reasons)}.\n\n{kept}" if reasons else kept


def _minor(version: str) -> list[str]:
    return version.split(".")[:2]


def _installed() -> dict[str, str]:
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {"testbed": VERSION, **versions}


def _relative(path: Path) -> str:
    try:
        return str(path.resolve().relative_to(PROJECT_ROOT))
    except ValueError:
        return path.name
