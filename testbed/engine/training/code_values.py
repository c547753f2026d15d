"""Hashes what code computes with: closures, globals, attributes, tensors and the files it names."""

import contextlib
import dis
import functools
import hashlib
import inspect
import logging
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from testbed.core.registry import Registry
from testbed.engine.training.code_files import (
    CodeFiles,
    NotHashableError,
    is_installed,
    is_project,
    nested,
    source_file,
)

_PLAIN = (type(None), bool, int, float, complex, bytes, range)
_OUTSIDE = (types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType)
_NOT_ENTERED = (logging.Logger, Registry, types.MemberDescriptorType, types.GetSetDescriptorType)
_NOT_IN_CLASSES = {"__doc__", "__dict__", "__weakref__", "__module__", "_abc_impl"}
_RUNS_ANY_CODE = {"import_module", "exec_module", "run_path", "run_module"}
_RUNS_TEXT = {"__import__", "exec", "eval", "compile"}
LONGEST_PATH = 1000
MOST_FILES = 10_000
COPY_PROTOCOL = 4  # of what an object tells about itself to be copied


class CodeValues:
    """A hash of values, in the order in which they are added.

    Values of the project and of installed packages are not entered: source files and versions tell
    what they are.

    Parameters
    ----------
    files : gets the modules of all code that is met.
    """

    def __init__(self, files: CodeFiles) -> None:
        self._files = files
        self._digest = hashlib.sha256()
        self._met: dict[int, Any] = {}  # keeps the values alive, so that no id is used twice

    def hexdigest(self) -> str:
        """Return the hash of what was added."""
        return self._digest.hexdigest()

    def add_options(self, options: Mapping[str, Any]) -> None:
        """Add the options of a component, and the content of files and folders that they name.

        Raises
        ------
        NotHashableError : a file cannot be read, or a folder holds too many files.
        """
        for name, value in options.items():
            if isinstance(value, Mapping):
                self.add_options(value)
            else:
                self._note(name)
                self.add(value)
                if isinstance(value, str) and _names_a_folder(value):
                    self._add_files(sorted(Path(value).rglob("*")))

    def _add_files(self, paths: list[Path]) -> None:
        if len(paths) > MOST_FILES:
            raise NotHashableError(f"{paths[0].parent} has more than {MOST_FILES} files")
        for path in paths:
            try:
                if path.is_file():
                    with path.open("rb") as opened:
                        content = hashlib.file_digest(opened, "sha256").hexdigest()
                    self._note("file", path.name, content)
            except OSError as error:
                raise NotHashableError(f"{path} cannot be read ({error.strerror})") from None

    def add(self, value: Any) -> None:
        """Add a value and everything that it refers to; of a text that names a file, its content.

        Raises
        ------
        NotHashableError : a part of it has no content that can be told.
        """
        if isinstance(value, _PLAIN):
            self._note(type(value).__name__, repr(value))
        elif isinstance(value, str | Path):
            self._add_text(str(value), Path())
        elif id(value) in self._met:
            self._note("met")
        else:
            self._met[id(value)] = value
            self._add_new(value)

    def _note(self, *words: str) -> None:
        for word in words:
            encoded = word.encode(errors="backslashreplace")
            self._digest.update(f"{len(encoded)}:".encode() + encoded)

    def _add_text(self, text: str, folder: Path) -> None:
        self._note("text", text)
        if _may_be_a_path(text):
            self._add_files([folder / text])

    def _add_new(self, value: Any) -> None:
        match value:
            case torch.Tensor():
                content = value.detach().cpu().contiguous().flatten().view(torch.uint8)
                self._note("tensor", str(value.dtype), str(tuple(value.shape)))
                self._digest.update(content.numpy().tobytes())
            case np.ndarray() if not value.dtype.hasobject:
                self._note("array", str(value.dtype), str(value.shape))
                self._digest.update(value.tobytes())
            case Mapping():
                self._add_items("mapping", [part for item in value.items() for part in item])
            case list() | tuple():
                self._add_items(type(value).__name__, value)
            case set() | frozenset():
                self._note("set", *sorted(self._alone(item) for item in value))
            case type():
                self._add_class(value)
            case types.ModuleType():
                self._note("module", value.__name__)
                self._files.follow([value.__name__])
            case types.FunctionType():
                self._add_function(value)
            case staticmethod() | classmethod() | types.MethodType():
                self._add_items("method", [value.__func__, getattr(value, "__self__", None)])
            case property():
                self._add_items("property", [value.fget, value.fset])
            case functools.cached_property():
                self.add(value.func)
            case functools.partial():
                self._add_items("partial", [value.func, value.args, value.keywords])
            case _ if isinstance(value, _OUTSIDE):
                self._note("outside", value.__qualname__)
            case types.UnionType() | types.GenericAlias():
                self._note("type", repr(value))
            case _ if isinstance(value, _NOT_ENTERED):
                self._note("not entered")
            case _ if hasattr(value, "__wrapped__"):
                self.add(value.__wrapped__)
            case torch.nn.Module():
                self._add_items("network", [type(value), _without_hook_numbers(vars(value))])
            case _:
                self._add_object(value)

    def _add_items(self, kind: str, items: Iterable[Any]) -> None:
        parts = list(items)
        self._note(kind, str(len(parts)))
        for part in parts:
            self.add(part)

    def _alone(self, value: Any) -> str:
        other = CodeValues(self._files)
        other.add(value)
        return other.hexdigest()

    def _add_object(self, value: Any) -> None:
        """Add what a copy of the object would be made of."""
        kind = type(value)
        try:
            parts = value.__reduce_ex__(COPY_PROTOCOL)
        except Exception:
            raise NotHashableError(
                f"it uses an object of {kind.__qualname__}, whose content cannot be told"
            ) from None
        if isinstance(parts, str):
            self._note("object", kind.__qualname__, parts)
        else:
            told = [list(part) if isinstance(part, Iterator) else part for part in parts]
            self._add_items("object", [kind, *told])

    def _add_class(self, value: type) -> None:
        module = value.__module__
        self._note("class", module, value.__qualname__)
        self._files.follow([module])
        path = source_file(module)
        if is_project(module) or (path is not None and is_installed(path)):
            return
        if path is None:
            if module.split(".")[0] in sys.stdlib_module_names:
                return
            raise NotHashableError(f"the module {module} of {value.__qualname__} has no file")
        self._add_items("bases", value.__bases__)
        for name, item in sorted(vars(value).items()):
            if name in _NOT_IN_CLASSES or name.startswith(("__pydantic", "__annot", "model_")):
                continue
            if not _is_generated(item, value):
                self._note(name)
                self.add(item)

    def _add_function(self, value: types.FunctionType) -> None:
        code, module = value.__code__, value.__globals__.get("__name__", "")
        self._note("function", value.__qualname__)
        closure = _contents(value.__closure__ or ())
        if code.co_filename.startswith("<frozen"):
            return
        path = Path(code.co_filename).resolve()
        if path.is_file() and is_project(module):
            self._files.follow([module])
        elif path.is_file() and is_installed(path):
            self._files.follow([module])
            self._add_items("closure", closure)  # such as the function that it decorates
        elif not path.is_file():
            raise NotHashableError(f"the source of {value.__qualname__} is in no file")
        elif not self._files.contains(code, path):
            raise NotHashableError(
                f"the code of {value.__qualname__} that runs is not the one that {path} has now"
            )
        else:
            self._files.follow_file(path, module)
            self._add_items("closure", closure)
            self._add_items("defaults", [value.__defaults__, value.__kwdefaults__])
            for part in nested(code):
                self._add_names(part, value.__globals__, path.parent)

    def _add_names(self, code: types.CodeType, names: Mapping[str, Any], folder: Path) -> None:
        """Add the globals that code loads, and the files that its constant texts name."""
        for text in code.co_consts:
            if isinstance(text, str):
                self._add_text(text, folder)
                self._add_text(text, Path())
        instructions = list(dis.get_instructions(code))
        loaded = {i.argval for i in instructions if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
        runs = (loaded & _RUNS_TEXT) | (set(code.co_names) & _RUNS_ANY_CODE)
        if runs:
            raise NotHashableError(f"{code.co_qualname} calls {min(runs)}, which may run any code")
        for name in sorted(loaded & set(names)):
            self._note("global", name)
            value = names[name]
            self.add(value)
            if isinstance(value, types.ModuleType) and self._is_of_user(value):
                for attribute in sorted(set(code.co_names) & set(vars(value))):
                    self._note("attribute", attribute)
                    self.add(getattr(value, attribute))

    def _is_of_user(self, module: types.ModuleType) -> bool:
        path = source_file(module.__name__)
        return path is not None and not is_project(module.__name__) and not is_installed(path)


def _may_be_a_path(text: str) -> bool:
    return 0 < len(text) < LONGEST_PATH and text.isprintable()


def _names_a_folder(text: str) -> bool:
    """Return whether a text is written like a path and a folder is there."""
    return _may_be_a_path(text) and "/" in text and Path(text).is_dir()


def _without_hook_numbers(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes of a network; hooks have numbers that depend on all earlier networks."""
    return {
        name: list(value.values()) if "_hooks" in name and isinstance(value, dict) else value
        for name, value in attributes.items()
    }


def _contents(cells: Iterable[types.CellType]) -> list[Any]:
    """Return what cells hold; one is empty until its variable is assigned."""
    contents = []
    for cell in cells:
        with contextlib.suppress(ValueError):
            contents.append(cell.cell_contents)
    return contents


def _is_generated(item: Any, owner: type) -> bool:
    """Return whether a method is one that Python makes from the fields of a class."""
    made_from_fields = hasattr(owner, "__dataclass_fields__") or hasattr(owner, "_fields")
    inside = inspect.unwrap(item) if callable(item) else item
    code = getattr(inside, "__code__", None)
    return made_from_fields and code is not None and code.co_filename.startswith("<string>")
