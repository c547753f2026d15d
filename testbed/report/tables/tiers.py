"""Tiers: what each runs, costs and leaks, and attacks learned on one and applied to another."""

from testbed.pages.cells import Cell, Row, Table, group, number, scored, words
from testbed.results import formats as numbers
from testbed.results.findings import anchors, best_by_tier, leakiest, readable
from testbed.results.reading import Results
from testbed.results.schema import (
    ArmResult,
    AttackOnTier,
    AttackResult,
    TierResult,
    Transfer,
)

HEADINGS = (
    "tier",
    "devices",
    "front-end",
    "defence",
    "precision",
    "edge MACs",
    "features",
    "accuracy",
    "latency, median",
    "victims",
    "best attack's MSE",
    "SSIM",
    "re-identified",
)


def tier_table(results: Results) -> Table | None:
    """Return the tiers of every arm that has several, the one that leaks most marked."""
    rows = []
    for arm in results.arms:
        if len(arm.tiers) < 2:
            continue
        worst = leakiest(arm)
        rows.append(group(arm.name, len(HEADINGS) - 1))
        rows += [
            _row(tier, best, worst is not None and worst[0] is tier)
            for tier, best in best_by_tier(arm)
        ]
    return Table(list(HEADINGS), rows) if rows else None


def _row(tier: TierResult, best: AttackOnTier | None, leaks_most: bool) -> Row:
    edge, latency = tier.edge, tier.latency_ms
    median = latency.median if latency else None
    return Row(
        tier.tier,
        [
            number(tier.devices, numbers.count, ", ".join(tier.device_classes)),
            words(readable(tier.front_end)),
            words(readable(tier.defence)),
            words(tier.precision),
            number(edge.macs if edge else None, numbers.scaled),
            number(edge.feature_bytes if edge else None, lambda v: numbers.scaled(v, "B")),
            scored(tier.accuracy, numbers.percent, as_percent=True),
            number(median, numbers.milliseconds),
            number(best.victims if best else None, numbers.count),
            scored(best.mse if best else None, numbers.significant, digits=2),
            scored(best.ssim if best else None, numbers.significant, digits=2),
            scored(best.reidentification if best else None, numbers.percent, as_percent=True),
        ],
        "leaks most" if leaks_most else "",
        "best" if leaks_most else "",
    )


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
        if anchor.attack == "mean_image":
            known = {item.tier: item.mse for item in anchor.by_tier}
            found = [known.get(target) for target in columns]
            shown = [number(item.value if item else None, numbers.significant) for item in found]
            rows.append(Row("mean image, same victims", shown, kind="anchor"))
    return Table(["trained on, applied to", *columns], rows)


def _cell(item: Transfer | None) -> Cell:
    if item is None or item.reason:
        return words("", item.reason if item else "")
    return scored(item.mse, numbers.significant)
