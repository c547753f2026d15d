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


_LEADING_ZEROS = r"[-+]?0[0-9_]+"


class _TextLoader(yaml.SafeLoader):
    """Safe YAML that refuses aliases, tags and duplicate keys; a plain scalar is a text or null."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._path: list[str] = []

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        refused = "aliases" if isinstance(event, yaml.AliasEvent) else "tags"
        if refused == "aliases" or getattr(event, "tag", None) is not None:
            raise _refusal(f"{refused} are not allowed", event)
        within = index is not None  # the root and keys have none
        if within:
            self._path.append(str(index.value if isinstance(index, yaml.Node) else index))
        if isinstance(event, yaml.ScalarEvent) and event.implicit[0]:
            self.refuse_plain(event.value, event)
        node = super().compose_node(parent, index)
        if within:
            self._path.pop()
        return node

    def refuse_plain(self, text: str, event: yaml.Event) -> None:
        """Refuse a scalar without quotes that this loader does not read."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise _refusal(f"the key {key!r} is not text", key_node)
            if key == "<<":
                raise _refusal("merge keys ('<<') are not allowed", key_node)
            if key in seen:
                raise _refusal(f"the key '{key}' is given twice", key_node)
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Loader(_TextLoader):
    """Reads plain scalars as YAML 1.2 does: ``no`` and ``1:20`` are texts, ``1e3`` is a number."""

    def refuse_plain(self, text: str, event: yaml.Event) -> None:
        """Refuse leading zeros, which YAML 1.1 reads as octal and YAML 1.2 as decimal."""
        if re.fullmatch(_LEADING_ZEROS, text):
            where = f"{'.'.join(self._path)}: " if self._path else ""
            sign = "-" if text.startswith("-") else ""
            number = sign + (text.replace("_", "").lstrip("+-0") or "0")
            raise _refusal(
                f"{where}{text:.30} has leading zeros; write {number:.30} for the number, or "
                f"'{text:.30}' in quotes for a text",
                event,
            )


def _refusal(reason: str, at: Any) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, reason, at.start_mark)


_NULL = {"null": (r"~|null|Null|NULL|", "~nN\0")}
_CORE_SCHEMA = _NULL | {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)"
        r"|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
}
"""Plain scalars that are no texts in YAML 1.2: pattern and possible first characters."""


def _resolve_only(loader: type[_TextLoader], schema: Mapping[str, tuple[str, str]]) -> None:
    """Let a loader resolve these types of plain scalars and no other."""
    loader.yaml_implicit_resolvers = {}
    for name, (pattern, first) in schema.items():
        characters = [char if char != "\0" else "" for char in first]
        loader.add_implicit_resolver(
            f"tag:yaml.org,2002:{name}", re.compile(rf"^(?:{pattern})$"), characters
        )


_resolve_only(_TextLoader, _NULL)
_resolve_only(_Loader, _CORE_SCHEMA)


def _whole_number(loader: _Loader, node: yaml.ScalarNode) -> int:
    """Return a whole number that fits a float, as needed wherever it is shown."""
    text: str = node.value
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    value = int(text, base)
    if value.bit_length() > sys.float_info.max_exp:
        raise _refusal(f"a whole number of {value.bit_length()} bits is too large", node)
    return value


_Loader.add_constructor("tag:yaml.org,2002:int", _whole_number)


class _Dumper(yaml.SafeDumper):
    """Puts texts into quotes that YAML 1.1 or YAML 1.2 reads as something else."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # Other styles write these line breaks as they are, and they are read as a blank.
    style = '"' if re.search("[\x85\u2028\u2029]", text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _text)
_QUOTED = _CORE_SCHEMA | {"int": (f"{_CORE_SCHEMA['int'][0]}|{_LEADING_ZEROS}", "-+0123456789")}
for _name, (_pattern, _first) in _QUOTED.items():
    if _name != "null":
        _Dumper.add_implicit_resolver(
            f"tag:yaml.org,2002:{_name}", re.compile(rf"^(?:{_pattern})$"), list(_first)
        )


def parse_yaml(text: str, where: str, as_text: bool = False) -> Any:
    """Parse YAML text.

    Parameters
    ----------
    as_text : keep numbers, dates and words such as ``true`` as the texts that are written.

    Raises
    ------
    UserError : not valid YAML; aliases, tags, duplicate or non-text keys, or leading zeros in it.
    """
    try:
        loader = _TextLoader if as_text else _Loader
        return yaml.load(text, Loader=loader)  # noqa: S506 - both are safe loaders
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
        message += _how_to_write(first["type"], first["input"])
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return ": ".join(part for part in (where, ".".join(path), message) if part) + more


def _how_to_write(kind: str, given: Any) -> str:
    """Return how to write a value of the expected type that YAML reads as another one."""
    if kind == "bool_type":
        return "; write true or false"
    if kind == "string_type" and isinstance(given, int | float):
        return "; write a text in quotes"
    if kind == "int_type" and isinstance(given, float) and given.is_integer():
        return f"; write {given:.0f}"
    if kind not in ("int_type", "float_type") or not isinstance(given, str):
        return ""
    if re.fullmatch(r"[\d:,.]*[:,][\d:,.]*", given):
        return "; write a plain number, with a point before decimals and no other sign"
    is_number = re.fullmatch(r"[-+]?[1-9][\d_]*(\.\d+)?", given) is not None
    return f"; write {given.replace('_', '')} without quotes" if is_number else ""


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
    tree = scenario.model_dump(mode="json")
    text: str = yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return text
