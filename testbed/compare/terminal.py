"""The short table that ends a comparison."""

from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from testbed.compare.comparison import Comparison
from testbed.compare.prose import in_short
from testbed.results.figures import COST, SCORES, UTILITY, shown_in

MAX_ROWS = 30


def short_table(comparison: Comparison, page: Path) -> RenderableType:
    """Return the arms, the findings and the page's path as a rich renderable."""
    front = comparison.front("accuracy_mse").on_front
    drawn = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    drawn.add_column("arm", no_wrap=True)
    figures = shown_in("terminal", UTILITY, SCORES, COST)
    for figure in figures:
        drawn.add_column(figure.label, justify="right")
    for place, item in enumerate(comparison.measured[:MAX_ROWS]):
        mark = " *" if front[place] else ""
        failed = " (failed)" if item.best is not None and item.best.failed else ""
        drawn.add_row(
            Text(item.arm.label + mark, style="bold" if mark else ""),
            *(
                figure.fmt(item[figure.key].shown.value) + (failed if figure.key == "mse" else "")
                for figure in figures
            ),
        )
    parts: list[RenderableType] = [drawn]
    if len(comparison.measured) > MAX_ROWS:
        parts.append(Text(f"and {len(comparison.measured) - MAX_ROWS} more arms", style="dim"))
    parts.append(Text("* on the Pareto front of accuracy and MSE", style="dim"))
    parts += [Text(f"{name}: {sentence}") for name, sentence in in_short(comparison)]
    parts += [Text(note, style="yellow") for note in comparison.notes]
    parts.append(Text(f"comparison: {page}", style="bold"))
    return Group(*parts)
