"""Registries: a name, a factory, its typed options and one line of description.

A component registers itself with a decorator. The registry finds it in the modules of its packages,
so that a new file needs no change elsewhere. Of these modules it imports the ones whose source
names the wanted component, and all of them where all names are wanted or none is found.
"""

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
Positive = Annotated[float, Field(gt=0.0)]
NonNegative = Annotated[float, Field(ge=0.0)]


class Options(BaseModel):
    """Base of every options class: unknown keys are refused, values are not coerced."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class NoOptions(Options):
    """A component without options."""


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One registered component; ``source`` is where the method was published, if anywhere."""

    name: str
    summary: str
    options: type[Options]
    factory: Callable[..., T]
    source: str = ""


def nearest(name: str, known: list[str]) -> str:
    """Return `` (did you mean 'x'?)`` for a likely misspelling, else an empty string."""
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f" (did you mean '{match[0]}'?)" if match else ""


class Registry(Generic[T]):
    """Named factories of one kind of component.

    Parameters
    ----------
    kind : what the component is called in messages, for instance ``defence``.
    packages : packages whose modules register what they define.
    """

    def __init__(self, kind: str, *packages: str) -> None:
        self.kind = kind
        self._packages = packages
        self._entries: dict[str, Entry[T]] = {}
        self._loaded = False

    def register(
        self, name: str, summary: str, options: type[Options] = NoOptions, source: str = ""
    ) -> Callable[[F], F]:
        """Register the decorated factory; it is called as ``factory(options, **arguments)``."""

        def decorator(factory: F) -> F:
            if name in self._entries:
                raise ValueError(f"{self.kind} '{name}' is registered twice")
            self._entries[name] = Entry(name, summary, options, factory, source)
            return factory

        return decorator

    def _load(self, wanted: str | None = None) -> None:
        """Import all modules of the packages, or those whose source names a wanted component."""
        if self._loaded:
            return
        self._loaded = wanted is None
        for package_name in self._packages:
            package = importlib.import_module(package_name)
            for module in pkgutil.iter_modules(getattr(package, "__path__", [])):
                if wanted is None or _names(module, wanted):
                    importlib.import_module(f"{package_name}.{module.name}")

    def __iter__(self) -> Iterator[Entry[T]]:
        """Iterate over the entries in the order of their names."""
        self._load()
        return iter(sorted(self._entries.values(), key=lambda entry: entry.name))

    def names(self) -> list[str]:
        """Return the registered names, sorted."""
        return [entry.name for entry in self]

    def entry(self, name: str) -> Entry[T]:
        """Return one entry.

        Raises
        ------
        ValueError : no entry of that name; the message lists the names.
        """
        if name not in self._entries:
            self._load(name)
        if name not in self._entries:
            self._load()
        if name not in self._entries:
            known = self.names()
            raise ValueError(
                f"unknown {self.kind} '{name}'{nearest(name, known)}; known: {', '.join(known)}"
            )
        return self._entries[name]

    def options(self, name: str, values: dict[str, Any]) -> Options:
        """Return the validated options of ``name``, defaults filled in."""
        return self.entry(name).options.model_validate(values)

    def create(self, name: str, values: dict[str, Any], **arguments: Any) -> T:
        """Build the component ``name`` from its options and the caller's arguments."""
        return self.entry(name).factory(self.options(name, values), **arguments)


def _names(module: pkgutil.ModuleInfo, component: str) -> bool:
    """Return whether a module's source has the name of a component in quotes, or is not known."""
    source = Path(getattr(module.module_finder, "path", "")) / f"{module.name}.py"
    if not source.is_file():
        return True
    text = source.read_text(encoding="utf-8")
    return f'"{component}"' in text or f"'{component}'" in text
