"""``--list``: everything that is registered, one line each."""

from pydantic.fields import FieldInfo
from rich.console import Console
from rich.table import Table

from testbed.core.registries import ALL
from testbed.fleet.catalogue import load_catalogue
from testbed.fleet.links import load_links
from testbed.scenario.components import Component


def _default(field: FieldInfo) -> str:
    """Return a default as a scenario would say it; a component by its name."""
    value = field.get_default(call_default_factory=True)
    return value.name if isinstance(value, Component) else repr(value)


def print_listing(console: Console | None = None) -> None:
    """Print the registered components with their options, then devices and links."""
    console = console or Console()
    for kind, registry in ALL.items():
        table = Table(title=kind, title_justify="left", box=None, pad_edge=False)
        table.add_column("name", style="bold", no_wrap=True)
        table.add_column("what it is")
        table.add_column("options (defaults)", style="dim")
        for entry in registry:
            options = ", ".join(
                name if field.is_required() else f"{name}={_default(field)}"
                for name, field in entry.options.model_fields.items()
            )
            table.add_row(entry.name, entry.summary, options)
        console.print(table)
        console.print()
    catalogue = load_catalogue()
    by_class: dict[str, list[str]] = {}
    for device in catalogue:
        by_class.setdefault(device.device_class, []).append(device.name)
    devices = Table(title="devices", title_justify="left", box=None, pad_edge=False)
    devices.add_column("class", style="bold", no_wrap=True)
    devices.add_column("names")
    for device_class, names in by_class.items():
        devices.add_row(device_class, ", ".join(names))
    console.print(devices)
    console.print()
    links = Table(title="links", title_justify="left", box=None, pad_edge=False)
    links.add_column("name", style="bold", no_wrap=True)
    links.add_column("what it is")
    for link in load_links():
        links.add_row(link.name, link.title)
    console.print(links)
