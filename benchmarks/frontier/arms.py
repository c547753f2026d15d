"""Arms of the comparison, written on the command line as ``front_end:k=v/defence:k=v``."""

from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import ValidationError

from testbed.core.errors import UserError
from testbed.core.registries import DEFENCES, FRONT_ENDS
from testbed.core.registry import Registry
from testbed.scenario.components import Component

DEFAULT_FRONT_END = "siftfunnel_cnn"

DEFAULT_ARMS = (
    "cnn:cut=2/none",
    "none",
    "cnn:cut=2/gaussian_noise:scale=0.5",
    "cnn:cut=2/laplace_noise:scale=0.5",
    "cnn:cut=2/feature_dropout:probability=0.5",
    "cnn:cut=2/nopeek:alpha=1.0",
    "cnn:cut=2/mid:beta=0.1",
    "cnn:cut=2/vib:beta=0.1",
    "cnn:cut=2/shredder:target=2.0",
    "cnn:cut=2/disco:pruned_share=0.5",
    "cnn:cut=2/adversarial_decoder:weight=1.0",
    "cnn:cut=2/cem:weight=0.5,scale=0.3",
    "cnn:cut=2/quantisation:bits=2",
    "cnn:cut=2/top_k:share=0.05",
    "siftfunnel",
    "siftfunnel_plus",
    "siftfunnel_plus:leak_weight=2.0",
)
"""Every registered defence, at a strength that its paper or its file suggests. Those of others are
cut where the paper's undefended counterpart is; both SiftFunnels need the funnel."""


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
