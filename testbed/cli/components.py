"""Names, descriptions and options of all registered components, devices and links."""

from collections.abc import Mapping
from typing import Any

from pydantic.fields import FieldInfo

from testbed.core.registries import ALL, ATTACKS
from testbed.core.registry import Options
from testbed.fleet.catalogue import load_catalogue
from testbed.fleet.links import load_links
from testbed.scenario.components import Component

Section = tuple[str, list[str], list[list[str]]]
"""The title, the headings and the rows of a table."""


def sections() -> list[Section]:
    """Return one table per kind of component, then those of devices and links."""
    made: list[Section] = []
    for kind, registry in ALL.items():
        rows = []
        for entry in registry:
            options = ", ".join(
                name if field.is_required() else f"{name}={default(field)}"
                for name, field in entry.options.model_fields.items()
            )
            rows.append([entry.name, entry.summary, options])
        headings = ["name", "<description", "<options (defaults)"]
        if registry is ATTACKS:
            headings.append("<presets (evaluation.attacks)")
            for row, entry in zip(rows, registry, strict=True):
                row.append(_presets(entry.factory))
        made.append((kind, headings, rows))
    by_class: dict[str, list[str]] = {}
    for device in load_catalogue():
        by_class.setdefault(device.device_class, []).append(device.name)
    devices = [[device_class, ", ".join(names)] for device_class, names in by_class.items()]
    made.append(("devices", ["class", "<names"], devices))
    links = [[link.name, link.title] for link in load_links()]
    made.append(("links", ["name", "<description"], links))
    return made


def _presets(attack: Any) -> str:
    """Return the options of an attack's presets, as a scenario writes them."""
    presets: Mapping[str, Mapping[str, Any]] = attack.presets
    return "; ".join(
        f"{strength}: " + ", ".join(f"{name}={_written(value)}" for name, value in options.items())
        for strength, options in presets.items()
    )


def _written(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_written(item)}" for key, item in value.items()) + "}"
    return str(value)


def default(field: FieldInfo) -> str:
    """Return the default of an option as a scenario writes it; a component by its name."""
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Options):
        return "{" + ", ".join(f"{key}: {option}" for key, option in value) + "}"
    return value.name if isinstance(value, Component) else str(value)
