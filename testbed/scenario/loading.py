"""Reads scenario files: strict YAML, overrides, and errors that say what to do."""

import copy
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from testbed.core.errors import UserError
from testbed.core.registry import nearest
from testbed.scenario.schema import Scenario

MAX_SCENARIO_BYTES = 1_000_000
SWEEP = "sweep"
"""The section of a scenario file that expands it to many scenarios (testbed.sweep)."""


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses aliases, tags and duplicate keys and reads ``1e-3`` as a number."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        refused = "aliases" if isinstance(event, yaml.AliasEvent) else "tags"
        if refused == "aliases" or getattr(event, "tag", None) is not None:
            mark = event.start_mark
            raise yaml.composer.ComposerError(None, None, f"{refused} are not allowed", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is not text", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def _whole_number(loader: _Loader, node: yaml.ScalarNode) -> int:
    """Return a whole number that fits a float, as needed wherever it is shown."""
    value: int = yaml.SafeLoader.construct_yaml_int(loader, node)
    if value.bit_length() > sys.float_info.max_exp:
        raise yaml.constructor.ConstructorError(
            None, None, f"a whole number of {value.bit_length()} bits is too large", node.start_mark
        )
    return value


_Loader.add_constructor("tag:yaml.org,2002:int", _whole_number)


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML text.

    Raises
    ------
    UserError : not valid YAML, or aliases, tags, duplicate or non-text keys in it.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"{where}{line}: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{where}: not valid YAML ({reason})") from None


def parse_overrides(overrides: Iterable[str]) -> list[tuple[str, Any]]:
    """Return the key path and the value of ``KEY.PATH=VALUE`` texts.

    Raises
    ------
    UserError : one is not of that form, or its value is not YAML.
    """
    parsed = []
    for override in overrides:
        path, separator, text = override.partition("=")
        if not separator or not all(path.strip().split(".")):
            raise UserError(f"--set {override}: give KEY.PATH=VALUE, for instance fleet.size=500")
        parsed.append((path.strip(), parse_yaml(text, f"--set {path}")))
    return parsed


def set_key(tree: dict[str, Any], path: str, value: Any, label: str = "--set ") -> None:
    """Set a key of a scenario's tree; address list items by position or by name.

    Parameters
    ----------
    label : text before the key path in messages, which tells where it was given.

    Raises
    ------
    UserError : no such list item, or the path goes through a single value.
    """
    keys = path.split(".")
    node: Any = tree
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        here = ".".join(keys[: depth + 1])
        if isinstance(node, list):
            node_index = _list_index(node, key, label + here)
            if last:
                node[node_index] = value
            elif isinstance(node[node_index], str):
                node[node_index] = {"name": node[node_index]}
            node = node[node_index]
        elif isinstance(node, dict):
            if last:
                node[key] = value
            elif isinstance(node.get(key), str):
                node[key] = {"name": node[key]}  # a component given by its bare name
            elif node.get(key) is None:
                node[key] = {}
            node = node[key]
        else:
            raise UserError(f"{label}{path}: '{'.'.join(keys[:depth])}' is a single value")


def _list_index(items: list[Any], key: str, here: str) -> int:
    """Find a list item by its position or by its ``name``."""
    if re.fullmatch(r"\d{1,9}", key) and int(key) < len(items):
        return int(key)
    names = [item.get("name") if isinstance(item, dict) else item for item in items]
    if key in names:
        return names.index(key)
    known = ", ".join(str(name) for name in names if name) or f"0 to {len(items) - 1}"
    raise UserError(f"{here}: no such item; known: {known}")


def read_tree(path: Path) -> dict[str, Any]:
    """Read a scenario file as a tree, without validating it.

    Raises
    ------
    UserError : it cannot be read, or is no YAML mapping.
    """
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise UserError(f"{path}: not a regular file")
        with path.open("rb") as file:
            raw = file.read(MAX_SCENARIO_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot read the scenario ({error.strerror})") from None
    if len(raw) > MAX_SCENARIO_BYTES:
        raise UserError(f"{path}: larger than {MAX_SCENARIO_BYTES} bytes, not a scenario")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None
    tree = parse_yaml(text, str(path))
    if not isinstance(tree, dict):
        raise UserError(f"{path}: a scenario is a mapping of sections, for instance 'fleet:'")
    return tree


def load_scenario(path: Path, overrides: Iterable[str] | None = None) -> Scenario:
    """Read, override and validate a scenario file.

    Parameters
    ----------
    path : the YAML file.
    overrides : ``key.path=value`` texts; list items are addressed by position or by name.

    Raises
    ------
    UserError : the file or an override is wrong.
    """
    tree = read_tree(path)
    return resolve(tree, parse_overrides(overrides or ()), str(path))


def resolve(
    tree: Mapping[str, Any],
    overrides: Iterable[tuple[str, Any]],
    where: str,
    label: str = "--set ",
) -> Scenario:
    """Apply overrides to a copy of a scenario's tree and validate it.

    Parameters
    ----------
    overrides : key paths and values, applied in order.
    where : names the tree's origin in messages.
    label : what messages put before the key path of an override.

    Raises
    ------
    UserError : the first problem, with its key path.
    """
    changed = copy.deepcopy(dict(tree))
    for path, value in overrides:
        set_key(changed, path, copy.deepcopy(value), label)
    if SWEEP in changed:
        raise UserError(
            f"{where}: {SWEEP}: expands to many scenarios, but this command takes one; "
            "python -m testbed.run and run_sweep run all"
        )
    return validate_scenario(changed, where)


def validate_scenario(tree: dict[str, Any], where: str) -> Scenario:
    """Validate a parsed scenario; ``where`` names its file in messages.

    Raises
    ------
    UserError : the first problem, with its key path, and how many more there are.
    """
    try:
        return Scenario.model_validate(tree)
    except ValidationError as error:
        raise UserError(describe(error, where, Scenario)) from None


def describe(error: ValidationError, where: str, model: type[BaseModel]) -> str:
    """Turn a pydantic error into one sentence with file, key path and allowed values."""
    problems = error.errors(include_url=False)
    first = problems[0]
    path = [str(part) for part in first["loc"]]
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        siblings = _keys_beside(first["loc"], model)
        message = f"unknown key{nearest(path[-1], siblings)}; allowed: {', '.join(siblings)}"
    elif first["type"] == "missing":
        message = "this key is required"
    elif first["type"] != "value_error":
        message = f"{message[:1].lower()}{message[1:]}, got {first['input']!r:.80}"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return ": ".join(part for part in (where, ".".join(path), message) if part) + more


def _keys_beside(location: tuple[str | int, ...], model: type[BaseModel]) -> list[str]:
    """List the keys allowed where an unknown one was found."""
    node: Any = model
    for part in location[:-1]:
        node = _descend(node, part)
    return sorted(node.model_fields) if node is not None else []


def _descend(node: Any, part: str | int) -> Any:
    """Step from a model class into a field's model class, through lists and optionals."""
    if node is None or isinstance(part, int):
        return node
    field = node.model_fields.get(part)
    pending = [field.annotation] if field is not None else []
    while pending:
        candidate = pending.pop()
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
        pending.extend(getattr(candidate, "__args__", ()))
    return None


def dump_scenario(scenario: Scenario) -> str:
    """Serialise a resolved scenario as YAML that loads to the same scenario."""
    return yaml.safe_dump(
        scenario.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100
    )
