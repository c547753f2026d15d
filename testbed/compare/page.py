"""Renders ``compare.html``: one self-contained file without scripts or outside references."""

from testbed.compare import tables
from testbed.compare.comparison import Comparison
from testbed.compare.plots import PLOTS
from testbed.compare.prose import in_short, matched_words
from testbed.pages.html import embedded
from testbed.pages.html import render as render_page
from testbed.privacy.intervals import LEVEL
from testbed.results.figures import COST, LEAKAGE


def render(comparison: Comparison, plots: dict[str, bytes], command: str) -> str:
    """Return the page as HTML.

    Parameters
    ----------
    plots : PNG bytes by the names of :data:`testbed.compare.plots.PLOTS`.
    command : the command that makes it again.
    """
    groups = {"tiers": comparison.tiers, "classes": comparison.classes}
    return render_page(
        "testbed.compare",
        "compare.html.j2",
        comparison=comparison,
        summary=comparison.summary,
        level=LEVEL,
        in_short=in_short(comparison),
        tables={
            "entries": tables.arm_table(comparison),
            "adversaries": tables.adversary_table(comparison),
            "fronts": tables.front_table(comparison),
            "cost": tables.figure_table(comparison, COST),
            "leakage": tables.figure_table(comparison, LEAKAGE),
        }
        | {f"weakest-{name}": tables.weakest_table(comparison, groups[name]) for name in groups}
        | {f"matrix-{name}": tables.group_matrix(comparison, groups[name]) for name in groups},
        matched=[
            (found, matched_words(found), tables.matched_table(found))
            for found in comparison.matched
        ],
        figures=embedded(PLOTS, plots),
        threat_models={
            (scored.facts.adversary, scored.facts.attack): scored.facts.threat_model
            for item in comparison.measured
            for scored in item.attacks.rebuilding
        },
        command=command,
    )
