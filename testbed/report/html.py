"""Renders ``report.html``: one self-contained file without scripts or outside references."""

from typing import Any

from testbed.pages.html import data_uri, environment
from testbed.pages.style import PALETTE
from testbed.report.cards import SPARK_HEIGHT, SPARK_WIDTH, Card, cards
from testbed.report.image_rows import comparisons, image_row, pairs, png
from testbed.report.plots.index import PLOTS
from testbed.report.prose import adversary_facts, in_short, limits
from testbed.report.tables import arms as tables
from testbed.report.tables import hijacks, threats
from testbed.report.tables import serving as tables_serving
from testbed.report.tables.headline import headline_table
from testbed.report.tables.tiers import tier_table, transfer_tables
from testbed.results.findings import adversaries, best_attack
from testbed.results.reading import Results


def render(results: Results, plots: dict[str, bytes]) -> str:
    """Return the report as HTML.

    Parameters
    ----------
    results : the folder, read.
    plots : PNG bytes by the names of :data:`testbed.report.plots.index.PLOTS`.
    """
    template = environment("testbed.report").get_template("report.html.j2")
    return template.render(_context(results, plots))


def _context(results: Results, plots: dict[str, bytes]) -> dict[str, Any]:
    summary = results.summary
    arms_by_class = [(arm, tables.class_table(arm), best_attack(arm)) for arm in results.arms]
    return {
        "summary": summary,
        "host": results.host,
        "folder": results.path.resolve().name,
        "in_short": in_short(results),
        "headline": headline_table(results),
        "fleet": tables.fleet_table(results),
        "arms": tables.arm_table(results),
        "tiers": tier_table(results),
        "adversaries": [adversary_facts(summary, name) for name in adversaries(summary)],
        "classes": [entry for entry in arms_by_class if entry[1] is not None],
        "serving": tables_serving.serving_table(results),
        "clouds": [each for each in map(tables_serving.cloud_sentence, results.arms) if each],
        "second": tables_serving.second_table(results),
        "attacks": tables.attack_table(results),
        "threats": threats.threat_table(results),
        "compared_arms": threats.comparison_table(results),
        "by_link": threats.link_table(results),
        "inference": threats.inference_table(results),
        "hijacks": hijacks.hijack_table(results),
        "transfers": transfer_tables(results),
        "spark": (SPARK_WIDTH, SPARK_HEIGHT),
        "cards": [(name, [(card, _picture(card)) for card in own]) for name, own in cards(results)],
        "leakage": tables.leakage_table(results),
        "information": tables.information_table(results),
        "pictures": [
            (
                comparison.adversary,
                [(row, data_uri(png(image_row(row.images)))) for row in comparison.rows],
            )
            for comparison in comparisons(results)
        ],
        "plots": {
            section: [
                (plot, data_uri(plots[plot.name]))
                for plot in PLOTS
                if plot.section == section and plot.name in plots
            ]
            for section in ("privacy", "utility", "cost")
        },
        "limits": limits(summary),
        "palette": PALETTE,
    }


def _picture(card: Card) -> str:
    """Return the best, median and worst victim and what was made of them; empty without them."""
    return "" if card.pairs is None else data_uri(png(pairs(card.pairs)))
