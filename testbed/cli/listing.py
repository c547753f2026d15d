"""``--list``: all registered components, devices and links."""

from collections.abc import Iterable, Sequence

from pydantic.fields import FieldInfo
from rich.console import Console

from testbed.cli.tables import table
from testbed.core.registries import ALL
from testbed.core.registry import Options
from testbed.fleet.catalogue import load_catalogue
from testbed.fleet.links import load_links
from testbed.scenario.components import Component


def print_listing(console: Console | None = None) -> None:
    """Print the registered components with their options, then devices and links."""
    console = console or Console()
    for kind, registry in ALL.items():
        rows = []
        for entry in registry:
            options = ", ".join(
                name if field.is_required() else f"{name}={default(field)}"
                for name, field in entry.options.model_fields.items()
            )
            rows.append((entry.name, entry.summary, options))
        _print(console, kind, ("name", "<description", "<options (defaults)"), rows)
    by_class: dict[str, list[str]] = {}
    for device in load_catalogue():
        by_class.setdefault(device.device_class, []).append(device.name)
    devices = [(device_class, ", ".join(names)) for device_class, names in by_class.items()]
    _print(console, "devices", ("class", "<names"), devices)
    links = [(link.name, link.title) for link in load_links()]
    _print(console, "links", ("name", "<description"), links)


def default(field: FieldInfo) -> str:
    """Return the default of an option as a scenario writes it; a component by its name."""
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Options):
        return "{" + ", ".join(f"{key}: {option}" for key, option in value) + "}"
    return value.name if isinstance(value, Component) else str(value)


def _print(
    console: Console, title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]
) -> None:
    made = table(title, *headings)
    for column in made.columns[2:]:
        column.style = "dim"
    for row in rows:
        made.add_row(*row)
    console.print(made)
    console.print()
