"""A page's figures: what each is and how it is to be read, and drawing them all."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from testbed.pages import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T")


@dataclass(frozen=True)
class Plot(Generic[T]):
    """A figure: its file name without ending, its section, title and how to read it."""

    name: str
    section: str
    title: str
    caption: str
    draw: "Callable[[T], Figure | None]"


def draw_figures(plots: Sequence[Plot[T]], data: T) -> dict[str, bytes]:
    """Return the PNG bytes of every figure that there is data for, by name."""
    drawn: dict[str, bytes] = {}
    with style.applied():
        for plot in plots:
            made = plot.draw(data)
            if made is not None:
                drawn[plot.name] = style.png(made)
    return drawn
