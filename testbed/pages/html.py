"""The set-up that all self-contained HTML pages share: templates that escape, embedded images."""

import base64

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape

from testbed.results import formats as numbers


def environment(*packages: str) -> Environment:
    """Return the templates of these packages, set up so that every text is escaped."""
    made = Environment(
        loader=ChoiceLoader([PackageLoader(package, "templates") for package in packages]),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["n"] = numbers
    return made


def data_uri(image: bytes) -> str:
    """Return PNG bytes as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(image).decode('ascii')}"
