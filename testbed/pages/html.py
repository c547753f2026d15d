"""The set-up that all self-contained HTML pages share: templates, figures and sentences."""

import base64
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from html import unescape
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from testbed.pages.plots import Plot
from testbed.pages.style import PALETTE
from testbed.results import figures, findings
from testbed.results import formats as numbers


def render(package: str, template: str, **values: Any) -> str:
    """Return a template of a package as HTML, in which every value is escaped."""
    return _environment(package).get_template(template).render(**values)


def sentence(package: str, name: str, *values: Any) -> str:
    """Return a sentence as plain text: what a macro of a package's ``sentences.html.j2`` says."""
    macros = _environment(package).get_template("sentences.html.j2").module
    return unescape(_line(getattr(macros, name)(*values)))


def embedded(plots: Sequence[Plot[Any]], images: Mapping[str, bytes]) -> dict[str, list[Any]]:
    """Return by section each plot that was drawn, with its PNG image as a data URI."""
    sections: dict[str, list[Any]] = defaultdict(list)
    for plot in plots:
        if plot.name in images:
            sections[plot.section].append((plot, data_uri(images[plot.name])))
    return sections


def data_uri(image: bytes) -> str:
    """Return PNG bytes as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(image).decode('ascii')}"


@cache
def _environment(package: str) -> Environment:
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("testbed.pages")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "n": numbers,
        "find": findings,
        "declared": figures,
        "palette": PALETTE,
    }
    environment.filters |= {"readable": findings.readable, "line": _line}
    return environment


def _line(text: str) -> str:
    """Return text on one line; its type stays, so that markup is not escaped again."""
    return type(text)(re.sub(r"[ \n]+", " ", text).strip(" \n"))
