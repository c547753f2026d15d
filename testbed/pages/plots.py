"""The figures of a page: their titles and captions, and how to draw them all."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from testbed.pages import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T")


@dataclass(frozen=True)
class Plot(Generic[T]):
    """A figure: its file name without ending, its section, title and caption."""

    name: str
    section: str
    title: str
    caption: str
    draw: "Callable[[T], Figure | None]"


def draw_figures(plots: Sequence[Plot[T]], data: T) -> dict[str, bytes]:
    """Return the PNG bytes of every figure that has data, by name."""
    drawn: dict[str, bytes] = {}
    with style.applied():
        for plot in plots:
            made = plot.draw(data)
            if made is not None:
                drawn[plot.name] = style.png(made)
    return drawn
