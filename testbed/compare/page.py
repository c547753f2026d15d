"""Renders ``compare.html``: one self-contained file without scripts or outside references."""

from typing import Any

from testbed.compare import tables
from testbed.compare.comparison import Comparison
from testbed.compare.plots import PLOTS
from testbed.compare.prose import in_short, matched_words
from testbed.pages.html import data_uri, environment
from testbed.pages.style import PALETTE
from testbed.privacy.intervals import LEVEL

SECTIONS = ("privacy", "matched", "cost", "tiers", "classes")


def render(comparison: Comparison, plots: dict[str, bytes], command: str) -> str:
    """Return the page as HTML.

    Parameters
    ----------
    plots : PNG bytes by the names of :data:`testbed.compare.plots.PLOTS`.
    command : the command that makes it again.
    """
    template = environment("testbed.compare", "testbed.report").get_template("compare.html.j2")
    return template.render(_context(comparison, plots, command))


def _context(comparison: Comparison, plots: dict[str, bytes], command: str) -> dict[str, Any]:
    summary = comparison.summary
    return {
        "summary": summary,
        "runs": comparison.runs,
        "entries": len(comparison.measured),
        "seeds": comparison.seeds,
        "reference": comparison.labels[comparison.reference],
        "resamples": comparison.resamples,
        "level": LEVEL,
        "max_loss": comparison.max_accuracy_loss,
        "notes": comparison.notes,
        "in_short": in_short(comparison),
        "entry_table": tables.entry_table(comparison),
        "adversary_table": tables.adversary_table(comparison),
        "front_table": tables.front_table(comparison),
        "matched": [
            (found, matched_words(found), tables.matched_table(found))
            for found in comparison.matched
        ],
        "groups": [
            (
                section,
                title,
                tables.weakest_table(comparison, groups),
                tables.group_matrix(comparison, groups),
            )
            for section, title, groups in (
                ("tiers", "Tiers", comparison.tiers),
                ("classes", "Device classes", comparison.classes),
            )
        ],
        "cost_table": tables.cost_table(comparison),
        "leakage_table": tables.leakage_table(comparison),
        "plots": {
            section: [
                (plot, data_uri(plots[plot.name]))
                for plot in PLOTS
                if plot.section == section and plot.name in plots
            ]
            for section in SECTIONS
        },
        "threat_models": _threat_models(comparison),
        "palette": PALETTE,
        "command": command,
    }


def _threat_models(comparison: Comparison) -> list[tuple[str, str, str]]:
    """Return adversary, attack and threat model of every attack that rebuilds images."""
    found = {
        (scored.facts.adversary, scored.facts.attack): scored.facts.threat_model
        for item in comparison.measured
        for scored in item.attacks.rebuilding
    }
    return [(adversary, attack, words) for (adversary, attack), words in found.items()]
