"""The transfer matrices: attacks learned on one tier, applied to the others."""

from testbed.pages.cells import Cell, Row, Table, number, scored, words
from testbed.results import formats as numbers
from testbed.results.findings import anchors, readable
from testbed.results.reading import Results
from testbed.results.schema import ArmResult, AttackResult, Transfer

MEAN_IMAGE = "mean_image"


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
            found = [known.get(target) for target in columns]
            shown = [number(item.value if item else None, numbers.significant) for item in found]
            rows.append(Row("mean image, same victims", shown, kind="anchor"))
    return Table(["trained on, applied to", *columns], rows)


def _cell(item: Transfer | None) -> Cell:
    if item is None or item.reason:
        return words("", item.reason if item else "")
    return scored(item.mse, numbers.significant)
