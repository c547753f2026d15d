"""Renders ``report.html``: one self-contained file without scripts or outside references."""

from collections.abc import Callable, Mapping

from testbed.pages.cells import Table
from testbed.pages.html import data_uri, embedded
from testbed.pages.html import render as render_page
from testbed.report.cards import SPARK_HEIGHT, SPARK_WIDTH, cards
from testbed.report.image_rows import comparisons, image_row, png
from testbed.report.plots.index import PLOTS
from testbed.report.tables import arms, hijacks, serving, threats, tiers
from testbed.report.tables.headline import headline_table
from testbed.results.reading import Results

TABLES: Mapping[str, Callable[[Results], Table | None]] = {
    "headline": headline_table,
    "attacks": arms.attack_table,
    "training_victims": arms.training_table,
    "threats": threats.threat_table,
    "comparisons": threats.comparison_table,
    "hijacks": hijacks.hijack_table,
    "inference": threats.inference_table,
    "links": threats.link_table,
    "leakage": arms.leakage_table,
    "information": arms.information_table,
    "serving": serving.serving_table,
    "tiers": tiers.tier_table,
    "arms": arms.arm_table,
    "fleet": arms.fleet_table,
}
"""The tables of the report, by their names in its template."""


def render(results: Results, plots: dict[str, bytes]) -> str:
    """Return the report as HTML.

    Parameters
    ----------
    results : the folder, read.
    plots : PNG bytes by the names of :data:`testbed.report.plots.index.PLOTS`.
    """
    return render_page(
        "testbed.report",
        "report.html.j2",
        summary=results.summary,
        host=results.host,
        folder=results.path.resolve().name,
        tables={name: table(results) for name, table in TABLES.items()},
        classes=[(arm, table) for arm in results.arms if (table := arms.class_table(arm))],
        transfers=tiers.transfer_tables(results),
        cards=cards(results),
        spark=(SPARK_WIDTH, SPARK_HEIGHT),
        pictures=[
            (
                comparison.adversary,
                [(row, data_uri(png(image_row(row.images)))) for row in comparison.rows],
            )
            for comparison in comparisons(results)
        ],
        figures=embedded(PLOTS, plots),
    )
