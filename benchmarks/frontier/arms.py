"""Arms of the comparison, written on the command line as ``front_end:k=v/defence:k=v``."""

from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import ValidationError

from testbed.core.errors import UserError
from testbed.core.registries import DEFENCES, FRONT_ENDS
from testbed.core.registry import Registry
from testbed.core.scenario import Component

DEFAULT_FRONT_END = "siftfunnel_cnn"


@dataclass(frozen=True)
class ComparedArm:
    """A front-end with a defence, and how the user wrote them."""

    text: str
    front_end: Component
    defence: Component


def parse_arm(text: str) -> ComparedArm:
    """Return the arm that ``[front_end[:key=value,...]/]defence[:key=value,...]`` names.

    Raises
    ------
    UserError : an unknown name, an option that does not exist or a value that is not allowed.
    """
    front_end, slash, defence = text.rpartition("/")
    return ComparedArm(
        text,
        _component(FRONT_ENDS, front_end if slash else DEFAULT_FRONT_END, text),
        _component(DEFENCES, defence, text),
    )


def _component(registry: Registry[Any], part: str, text: str) -> Component:
    name, _, rest = part.partition(":")
    options: dict[str, Any] = {}
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise UserError(f"--defences {text}: '{item}' must be written key=value")
        options[key] = yaml.safe_load(value)
    try:
        registry.options(name, options)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(key) for key in first["loc"]) or name
        raise UserError(f"--defences {text}: {name}: {where}: {first['msg']}") from None
    except ValueError as error:
        raise UserError(f"--defences {text}: {error}") from None
    return Component(name=name, options=options)
