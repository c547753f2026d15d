"""Follows the imports of code to the files and packages that decide what it computes."""

import ast
import importlib.util
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import CodeType

PACKAGES = ("clients", "server", "testbed.core", "testbed.wire")
"""Packages of the project that decide weights; its other modules are not followed."""
# Their relevant values are in the key; their source changes with every new option.
NOT_FOLLOWED = ("testbed.core.registries", "testbed.core.registry")
PROJECT = ("clients", "server", "testbed")


class NotHashableError(Exception):
    """What decides a model's weights cannot be told from files; the text says why."""


def is_installed(path: Path) -> bool:
    """Return whether a file belongs to Python or to an installed package."""
    return any(path.is_relative_to(folder) for folder in _installed_folders())


@cache
def _installed_folders() -> tuple[Path, ...]:
    paths = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    paths += [*site.getsitepackages(), site.getusersitepackages()]
    return tuple({Path(path).resolve() for path in paths if path})


def is_project(module: str) -> bool:
    """Return whether a module is one of this project."""
    return module.split(".")[0] in PROJECT


@cache
def version_of(package: str) -> str:
    """Return the version of an installed package by the name that it is imported with."""
    if package in sys.stdlib_module_names:
        return sys.version.split()[0]
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        names = metadata.packages_distributions().get(package, [])
        return ", ".join(f"{name} {metadata.version(name)}" for name in sorted(set(names)))


def source_file(module: str) -> Path | None:
    """Return the file of a module, or None for one without a file of its own.

    Raises
    ------
    NotHashableError : its code is in no file, such as that of an interactive session.
    """
    spec = _spec_of(module)
    origin = spec.origin if spec is not None and spec.has_location else None
    name = getattr(sys.modules.get(module), "__file__", None) or origin
    if name is None:
        if module == "__main__":
            raise NotHashableError("it is defined in an interactive session, not in a file")
        return None
    path = Path(name).resolve()
    if not path.is_file():
        raise NotHashableError(f"the source {path} of {module} cannot be read")
    return path


def _spec_of(module: str) -> ModuleSpec | None:
    """Return where a module is, without running its code or that of packages above it."""
    if module in sys.modules:
        return sys.modules[module].__spec__
    above, _, _ = module.rpartition(".")
    if not above:
        return importlib.util.find_spec(module)
    package = _spec_of(above)
    places = package.submodule_search_locations if package is not None else None
    return None if places is None else PathFinder.find_spec(module, places)


@dataclass
class CodeFiles:
    """The files that modules consist of, with those that they import.

    Attributes
    ----------
    sources : content of each file by the module's name.
    packages : versions of the installed packages that they import.
    """

    sources: dict[str, bytes] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)
    _code: dict[Path, list[CodeType]] = field(default_factory=dict)

    def follow(self, modules: Iterable[str]) -> None:
        """Add modules and everything that they import, except the project's other packages.

        Raises
        ------
        NotHashableError : one is in no file that can be read.
        """
        waiting = list(modules)
        while waiting:
            name = waiting.pop()
            if name in self.sources:
                continue
            path = source_file(name)
            if path is None:
                continue
            if not is_project(name) and is_installed(path):
                package = name.split(".")[0]
                self.packages[package] = version_of(package)
                continue
            self.sources[name] = path.read_bytes()
            if path.suffix == ".py" or name == "__main__":
                waiting += imports_of(ast.parse(self.sources[name]), _package_of(name, path))

    def follow_file(self, path: Path, module: str) -> None:
        """Add a file that runs under the name of a module, also if the module cannot be found.

        Raises
        ------
        NotHashableError : a file that it imports cannot be read.
        """
        self.follow([module])
        content = path.read_bytes()
        if content not in self.sources.values():
            self.sources[f"{module} in {path.name}"] = content
            self.follow(imports_of(ast.parse(content), module.rpartition(".")[0]))

    def contains(self, code: CodeType, path: Path) -> bool:
        """Return whether a file, as it is on disk now, contains running code."""
        if path not in self._code:
            compiled = compile(path.read_bytes(), code.co_filename, "exec", dont_inherit=True)
            self._code[path] = list(nested(compiled))
        return code in self._code[path]


def nested(code: CodeType) -> Iterator[CodeType]:
    """Iterate over a code object and all inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from nested(constant)


def _package_of(module: str, path: Path) -> str:
    """Return the package that a module's relative imports start from."""
    loaded = sys.modules.get(module)
    package = getattr(loaded, "__package__", None)
    if package is not None:
        return str(package)
    return module if path.name == "__init__.py" else module.rpartition(".")[0]


def imports_of(tree: ast.AST, package: str) -> set[str]:
    """Return the modules that a file imports, those above them included.

    A name in ``from a import b`` may be a module ``a.b`` or an object; both are returned.
    """
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                above = ".".join(parts[: len(parts) - node.level + 1])
                base = f"{above}.{base}".strip(".")
            if base:
                names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    names |= {name[:end] for name in names for end, char in enumerate(name) if char == "."}
    return {name for name in names if not is_project(name) or _decides(name)}


def _decides(module: str) -> bool:
    below = any(module == package or module.startswith(f"{package}.") for package in PACKAGES)
    return below and module not in NOT_FOLLOWED
