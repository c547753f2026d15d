"""Tiers: what each runs, costs and leaks, and attacks learned on one and applied to another."""

from testbed.pages.cells import Cell, Row, Table, group, number, part_cells, words
from testbed.privacy.intervals import Interval
from testbed.results import formats as numbers
from testbed.results.figures import COST, SCORES, UTILITY, Figure, shown_in
from testbed.results.findings import anchors, best_by_tier, leakiest, readable
from testbed.results.reading import Results
from testbed.results.schema import MEAN_IMAGE, ArmResult, AttackResult, Transfer

FACTS = ("front-end", "defence", "precision")


def tier_table(results: Results) -> Table | None:
    """Return the tiers of every arm that has several, the one that leaks most marked."""
    figures = shown_in("tiers", UTILITY, COST)
    scores = [Figure("victims", "victims", numbers.count), *shown_in("tiers", SCORES)]
    headings = ["devices", *FACTS, *(figure.label for figure in (*figures, *scores))]
    rows = []
    for arm in results.arms:
        if len(arm.tiers) < 2:
            continue
        worst = leakiest(arm)
        rows.append(group(arm.name, len(headings)))
        for tier, best in best_by_tier(arm):
            leaks_most = worst is not None and worst[0] is tier
            facts = (readable(tier.front_end), readable(tier.defence), tier.precision)
            cells = [
                number(tier.devices, numbers.count, ", ".join(tier.device_classes)),
                *map(words, facts),
                *part_cells(tier, figures),
                *part_cells(best, scores),
            ]
            note, kind = ("leaks most", "best") if leaks_most else ("", "")
            rows.append(Row(tier.tier, cells, note, kind))
    return Table(["tier", *headings], rows) if rows else None


def transfer_tables(results: Results) -> list[tuple[str, Table]]:
    """Return a titled matrix for every attack that was transferred."""
    return [
        (f"{arm.name}, {attack.adversary}: {readable(attack.attack)}", _matrix(arm, attack))
        for arm in results.arms
        for attack in arm.attacks
        if attack.transfer
    ]


def _matrix(arm: ArmResult, attack: AttackResult) -> Table:
    cells = {(item.trained_on, item.applied_to): item for item in attack.transfer}
    sources = list(dict.fromkeys(source for source, _ in cells))
    columns = list(dict.fromkeys(target for _, target in cells))
    rows = [
        Row(source, [_cell(cells.get((source, target))) for target in columns])
        for source in sources
    ]
    for anchor in anchors(arm, attack.adversary):
        if anchor.attack == MEAN_IMAGE:
            known = {item.tier: item.mse for item in anchor.by_tier}
            errors = [known.get(target, Interval()).value for target in columns]
            shown = [number(error, numbers.significant) for error in errors]
            rows.append(Row("mean image, same victims", shown, kind="anchor"))
    return Table(["trained on, applied to", *columns], rows)


def _cell(item: Transfer | None) -> Cell:
    if item is None or item.reason:
        return words("", item.reason if item else "")
    return number(item.mse, numbers.significant)
