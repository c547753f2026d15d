"""The tables of the report beside the headline: fleet, arms, device classes, attacks, leakage."""

from collections.abc import Sequence

from testbed.pages.cells import Cell, Row, Table, group, number, part_cells, victims_cell, words
from testbed.results import formats as numbers
from testbed.results.figures import ATTACKS, COST, LEAKAGE, SCORES, UTILITY, Figure, shown_in
from testbed.results.findings import readable
from testbed.results.host_facts import AttackCost
from testbed.results.reading import Results
from testbed.results.schema import ArmResult, AttackResult, InformationBound

DEVICES = Figure("devices", "devices", numbers.count)
EDGE_COMPUTE = Figure("edge_compute_ms", "edge compute", numbers.milliseconds)
COUNTS = (
    Figure("stragglers", "strag\u00adglers", numbers.count),
    Figure("offline", "offline", numbers.count),
    Figure("infeasible_serving", "infeas\u00adible", numbers.count),
)
SENT_RAW = Figure("offloaded_raw", "sent raw", numbers.count)
PARAMETERS = (
    Figure("edge.parameters", "edge parameters", numbers.scaled),
    Figure("cloud.parameters", "cloud parameters", numbers.scaled),
)
TRAINED = (
    Figure("victims", "victims", numbers.count),
    Figure("body_parameters", "decoder parameters", numbers.scaled),
    Figure("best_epoch", "epoch used", numbers.count),
    Figure("queries", "images queried", numbers.count),
)
"""Columns of the table of attacks beside the scores."""
HOST_COSTS = ("CPU time", "memory")
"""Further columns: what the machine that ran the attack measured."""


def fleet_table(results: Results) -> Table:
    """Return the composition of the fleet."""
    fleet = results.summary.fleet

    def listing(counts: dict[str, int]) -> Cell:
        ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return words(", ".join(f"{name} ({n})" for name, n in ordered))

    rows = [
        Row(
            entry.device_class,
            [number(entry.devices, numbers.count), listing(entry.models), listing(entry.links)],
        )
        for entry in fleet.device_classes
    ]
    return Table(["device class", "devices", "models", "links"], rows)


def arm_table(results: Results) -> Table | None:
    """Return what each arm consists of."""
    if not results.arms:
        return None
    rows = []
    for arm in results.arms:
        texts = [
            *(readable(name) for name in (arm.front_end, arm.defence, arm.cloud_model)),
            " × ".join(map(str, arm.edge.feature_shape)),  # noqa: RUF001
        ]
        sizes = [number(figure.of(arm), figure.fmt) for figure in PARAMETERS]
        rows.append(Row(arm.name, [*map(words, texts), *sizes]))
    headings = ["arm", "front-end", "defence", "cloud model", "features"]
    return Table([*headings, *(figure.label for figure in PARAMETERS)], rows)


def class_table(arm: ArmResult) -> Table | None:
    """Return one arm's figures per device class."""
    if not arm.by_device_class:
        return None
    attacked = {entry.device_class: entry for entry in arm.best.by_device_class} if arm.best else {}
    any_raw = any(entry.offloaded_raw for entry in arm.by_device_class)
    served = [DEVICES, *shown_in("classes", UTILITY, COST), EDGE_COMPUTE]
    scores = shown_in("classes", SCORES)
    counts = [*COUNTS, *([SENT_RAW] if any_raw else [])]
    rows = []
    for entry in arm.by_device_class:
        attack = attacked.get(entry.device_class)
        latency = entry.latency_ms
        p95 = f"p95 {numbers.milliseconds(latency.p95)}" if latency and latency.p95 else ""
        rows.append(
            Row(
                entry.device_class,
                [
                    *part_cells(entry, served, {"latency_ms_median": p95}),
                    victims_cell(attack.victims if attack else None),
                    *part_cells(attack, scores),
                    *part_cells(entry, counts),
                ],
            )
        )
    headings = ["device class", *(figure.label for figure in served), "victims"]
    return Table([*headings, *(figure.label for figure in (*scores, *counts))], rows)


def attack_table(results: Results) -> Table | None:
    """Return every attack on every arm, anchors and each threat model's best marked."""
    columns = [*shown_in("attacks", ATTACKS), *TRAINED]
    width = len(columns) + len(HOST_COSTS)
    rows = []
    for arm in results.arms:
        for adversary in dict.fromkeys(attack.adversary for attack in arm.attacks):
            rows.append(group(f"{arm.name}, {adversary}", width))
            best = arm.best_attack(adversary)
            rows += [
                _attack_row(attack, columns, attack is best, results.cost_of(arm.name, attack))
                for attack in arm.attacks
                if attack.adversary == adversary
            ]
    return Table(_attack_headings(columns), rows) if rows else None


def _attack_headings(columns: Sequence[Figure]) -> list[str]:
    return ["attack", *(figure.label for figure in columns), *HOST_COSTS]


def training_table(results: Results) -> Table | None:
    """Return every attack on training images, on every arm that an adversary attacked so."""
    columns = [*shown_in("attacks", ATTACKS), *TRAINED]
    width = len(columns) + len(HOST_COSTS)
    rows = []
    for arm in results.arms:
        best = arm.best_on_training
        for adversary in dict.fromkeys(item.result.adversary for item in arm.training_attacks):
            own = [item for item in arm.training_attacks if item.result.adversary == adversary]
            rounds = ", ".join(map(str, own[0].rounds))
            title = (
                f"{arm.name}, {adversary}: round {rounds}; {numbers.count(own[0].sent_images)} "
                f"images sent, {numbers.count(own[0].releases)} releases attacked"
            )
            rows.append(group(title, width))
            costs = [results.cost_of(arm.name, item.result, on_training=True) for item in own]
            rows += [
                _attack_row(item.result, columns, item is best, cost)
                for item, cost in zip(own, costs, strict=True)
            ]
    return Table(_attack_headings(columns), rows) if rows else None


def _attack_row(
    attack: AttackResult, columns: Sequence[Figure], is_best: bool, cost: AttackCost | None
) -> Row:
    kind = "anchor" if attack.is_anchor else "best" if is_best else ""
    failed = ""
    if attack.worse_than_mean_image and not attack.is_anchor:
        failed = "worse than the mean image: the attack failed, which is not privacy"
    return Row(
        readable(attack.attack),
        [
            *(number(figure.of_attack(attack), figure.fmt) for figure in columns),
            number(cost.cpu_s if cost else None, numbers.duration),
            number(cost.peak_mb if cost else None, _memory),
        ],
        "; ".join(filter(None, (kind, failed))),
        kind,
    )


def _memory(peak_mb: float | None) -> str:
    return numbers.scaled(None if peak_mb is None else peak_mb * 1e6, "B")


def leakage_table(results: Results) -> Table | None:
    """Return the attack-free measures on the released features."""
    figures = shown_in("leakage", LEAKAGE)
    rows = []
    for arm in results.arms:
        of_all = f"of {numbers.count(arm.leakage.channels)}"
        cells = [
            number(figure.of(arm), figure.fmt, of_all if figure.key == "live_channels" else "")
            for figure in figures
        ]
        rows.append(Row(arm.name, [*cells, words(_release(arm))]))
    headings = ["arm", *(figure.label for figure in figures), "release, by its defence"]
    return Table(headings, rows) if rows else None


def information_table(results: Results) -> Table | None:
    """Return the trained lower bounds on the information, where the run asked for them."""
    rows = []
    for arm in results.arms:
        found = arm.leakage.information
        if found is not None:
            bounds = (found.mine, found.infonce, found.mine_bounded)
            counts = [
                number(found.mine.held_out, numbers.count),
                number(found.pairs, numbers.count),
            ]
            rows.append(Row(arm.name, [*map(_bound, bounds), *counts]))
    headings = [
        "arm",
        "MINE (nats)",
        "InfoNCE (nats)",
        "MINE as published (relative score)",
        "held-out pairs",
        "pairs",
    ]
    return Table(headings, rows) if rows else None


def _bound(bound: InformationBound) -> Cell:
    """Return a bound above its estimator's ceiling, or above the reason why there is none."""
    ceiling = bound.ceiling_nats
    at_most = f"cannot exceed {numbers.significant(ceiling)}" if ceiling is not None else ""
    if bound.saturated:
        at_most = f"saturated, near its ceiling of {numbers.significant(ceiling)}"
    return number(bound.nats, numbers.significant, bound.reason or at_most)


def _release(arm: ArmResult) -> str:
    """Return the facts that a defence reports of its release, such as its signal-to-noise ratio."""
    facts = [
        f"{readable(name.removesuffix('_db'))} {numbers.significant(value)}"
        + (f"{numbers.THIN}dB" if name.endswith("_db") and value is not None else "")
        for name, value in arm.release.items()
    ]
    return ", ".join(facts) or numbers.ABSENT
