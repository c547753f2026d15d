"""Parts of scenario sections: names, shares, and components chosen from the registries."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_serializer,
)
from pydantic_core import InitErrorDetails

from testbed.core import registries
from testbed.core.registry import Options, Registry, nearest

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=64)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveShare = Annotated[float, Field(gt=0.0, le=1.0)]
Strength = Literal["fast", "standard", "thorough"]
"""Of attacks; ``standard`` are their defaults."""


class Section(BaseModel):
    """Base of every section of a scenario: immutable, strict types, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Component(BaseModel):
    """A registered component and its validated options; written flat in YAML."""

    model_config = ConfigDict(frozen=True)
    name: str
    options: dict[str, Any]

    @model_serializer
    def flat(self) -> dict[str, Any]:
        """Serialise as ``{name: ..., **options}``, the form that scenarios use."""
        return {"name": self.name, **self.options}


def check_options(registry: Registry[Any], name: str, given: dict[str, Any]) -> None:
    """Refuse options that the component does not have; the message lists those that it has."""
    allowed = sorted(registry.entry(name).options.model_fields)
    for key in given:
        if key not in allowed:
            raise ValueError(
                f"{registry.kind} '{name}' has no option '{key}'"
                f"{nearest(str(key), allowed)}; options: {', '.join(allowed) or 'none'}"
            )


def below(key: str, error: ValidationError) -> ValidationError:
    """Return the error with its places below ``key``: options have a key of their own."""
    lines = [
        InitErrorDetails(
            type=line["type"],
            loc=(key, *line["loc"]),
            input=line["input"],
            ctx=line.get("ctx", {}),
        )
        for line in error.errors()
    ]
    return ValidationError.from_exception_data(error.title, lines)


def built(
    registry: Registry[Any], name: str, given: dict[str, Any], kept: Mapping[str, Any] | None = None
) -> Component:
    """Return the component ``name`` with the given options on top of ``kept`` ones.

    Raises
    ------
    ValueError : no such component or option, or a value out of its range.
    """
    given = {key: value for key, value in given.items() if key != "name"}
    check_options(registry, name, given)
    options: Options = registry.options(name, {**(kept or {}), **given})
    return Component(name=name, options=options.model_dump())


def _component_validator(registry: Registry[Any]) -> BeforeValidator:
    def validate(value: Any) -> Component:
        if isinstance(value, Component):
            return value
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            raise ValueError(
                f"give the name of a {registry.kind}, or a mapping with 'name' and its options; "
                f"known: {', '.join(registry.names())}"
            )
        return built(registry, value["name"], value)

    return BeforeValidator(validate)


FrontEndChoice = Annotated[Component, _component_validator(registries.FRONT_ENDS)]
DefenceChoice = Annotated[Component, _component_validator(registries.DEFENCES)]
AttackChoice = Annotated[Component, _component_validator(registries.ATTACKS)]
PartitionerChoice = Annotated[Component, _component_validator(registries.PARTITIONERS)]
AvailabilityChoice = Annotated[Component, _component_validator(registries.AVAILABILITIES)]
StrategyChoice = Annotated[Component, _component_validator(registries.STRATEGIES)]


def component(registry: Registry[Any], name: str, description: str | None = None) -> Any:
    """Return a field whose default is the component ``name`` with its default options."""
    return Field(default_factory=lambda: built(registry, name, {}), description=description)


def overridden(registry: Registry[Any], base: Component, change: Any) -> Component:
    """Return ``base``, replaced by another component or with some options changed.

    Parameters
    ----------
    change : None keeps ``base``; text names another component; a mapping with ``name`` is another
        component with its options; a mapping without changes options of ``base``.

    Raises
    ------
    ValueError : no such component or option, or a value out of its range.
    """
    if change is None:
        return base
    if isinstance(change, str):
        change = {"name": change}
    if not isinstance(change, dict):
        raise ValueError(f"give a name, or a mapping of options, got {change!r:.80}")
    name = change.get("name", base.name)
    return built(registry, name, change, base.options if name == base.name else {})
