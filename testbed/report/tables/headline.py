"""The comparison of the arms: one column each, with ratios to the first arm."""

from testbed.pages.cells import Cell, Row, Table, group, number, words
from testbed.results import formats as numbers
from testbed.results.choice import WORDS
from testbed.results.figures import (
    ATTACKS,
    COST,
    FIGURES,
    PROVIDER,
    SERVING,
    TRAINING,
    UTILITY,
    Figure,
    Score,
    shown_in,
)
from testbed.results.findings import anchors, identifies_more, readable
from testbed.results.reading import Results
from testbed.results.schema import ArmResult, AttackResult

MSE, ENERGY = FIGURES["mse"], FIGURES["energy_mj"]


def headline_table(results: Results) -> Table | None:
    """Return the comparison of the arms, one column each, with ratios to the first arm."""
    arms = results.arms
    if not arms:
        return None
    any_provider = any(arm.training.provider for arm in arms)
    rows = [
        *_section("Utility", arms, UTILITY),
        *_privacy_rows(arms),
        *_training_rows(arms),
        *_section("Cost, per image (simulated)", arms, COST),
        *(_section("Training at the provider", arms, PROVIDER) if any_provider else []),
        *_section("Training, whole fleet (simulated; counts are device-rounds)", arms, TRAINING),
        *_section("Serving, requests", arms, SERVING),
    ]
    return Table(["", *(arm.name for arm in arms)], rows)


def _section(title: str, arms: list[ArmResult], figures: tuple[Figure, ...]) -> list[Row]:
    shown = [figure for figure in shown_in("headline", figures) if not _idle(figure, arms)]
    return [group(title, len(arms)), *(_row(figure, arms) for figure in shown)]


def _idle(figure: Figure, arms: list[ArmResult]) -> bool:
    """Say whether a row adds nothing: radios never kept awake, an unpriced cloud, none unused."""
    values = [figure.of(arm) for arm in arms if arm.serving]
    if figure.key == "work_mj_per_request":
        return values == [ENERGY.of(arm) for arm in arms if arm.serving]
    if figure.key == "unused":
        return not any(figure.of(arm) for arm in arms)
    return figure.key == "busy" and not any(value is not None for value in values)


def _row(figure: Figure, arms: list[ArmResult]) -> Row:
    first = figure.of(arms[0])
    cells = []
    for arm in arms:
        value = figure.of(arm)
        unknown = _unknown_devices(figure, arm)
        compared = figure.better and isinstance(value, int | float) and arm is not arms[0]
        # Figures that leave out other devices have no ratio.
        compared = compared and unknown == _unknown_devices(figure, arms[0])
        notes = [numbers.times(value, first)] if compared else []
        if unknown:
            notes.append(f"unknown for {unknown:,} device{'s' if unknown > 1 else ''}")
        cells.append(number(value, figure.fmt, "; ".join(filter(None, notes))))
    return Row(figure.label, cells)


def _unknown_devices(figure: Figure, arm: ArmResult) -> int:
    """Return how many devices a figure leaves out."""
    if figure is ENERGY or figure.key == "work_mj_per_request":
        return arm.serving.energy_unknown_devices
    if figure.key in ("energy_j", "wake_tail_j"):
        return arm.training.energy_unknown_devices
    return arm.training.idle_unknown_devices if figure.key == "idle_j" else 0


def _privacy_rows(arms: list[ArmResult]) -> list[Row]:
    if not any(arm.best for arm in arms):
        return [
            group("Privacy", len(arms)),
            Row("attacks", [words("none was mounted") for _ in arms]),
        ]
    rows = [
        group("Privacy: the best attack, all adversaries", len(arms)),
        Row("which attack", [_which(arm.best, _chosen(arm)) for arm in arms]),
    ]
    for figure in shown_in("headline", ATTACKS):
        row = _row(figure, arms)
        rows.append(row if isinstance(figure, Score) else Row(row.label, row.cells, kind="anchor"))
        if figure is MSE:
            rows += _anchor_rows(arms)
    more = [identifies_more(arm, arm.best) if arm.best else None for arm in arms]
    if any(more):
        rows.append(Row("another attack re-identifies more", [_more(attack) for attack in more]))
    return rows


def _training_rows(arms: list[ArmResult]) -> list[Row]:
    """Return the best attack on training images: no ratios, since victims can differ by arm."""
    best = [item.result if (item := arm.best_on_training) else None for arm in arms]
    if not any(best):
        return []
    scores = [MSE, FIGURES["reidentification"], FIGURES["chance_reidentification"]]
    return [
        group("Privacy of training images, as devices send them: the best attack", len(arms)),
        Row("which attack on training images", [_which(attack) for attack in best]),
        *(
            Row(
                f"{figure.label}, training images",
                [
                    number(figure.of_attack(attack) if attack else None, figure.fmt)
                    for attack in best
                ],
                kind="" if isinstance(figure, Score) else "anchor",
            )
            for figure in scores
        ),
    ]


def _which(attack: AttackResult | None, chosen: str = "") -> Cell:
    if attack is None:
        return words(numbers.ABSENT)
    failed = "failed: worse than the mean image" if attack.worse_than_mean_image else ""
    notes = "; ".join(note for note in (failed, chosen) if note)
    return words(f"{readable(attack.attack)}, {attack.adversary}", notes)


def _chosen(arm: ArmResult) -> str:
    """Say which rule chose the best attack, where there was a choice."""
    if len(arm.rebuilding) < 2:
        return ""
    covered = ", whose interval covers the choice" if arm.best_mse else ""
    return WORDS[arm.chosen_by] + covered


def _anchor_rows(arms: list[ArmResult]) -> list[Row]:
    """Return the MSE of every anchor on the victims of each arm's best attack."""
    by_arm = [
        {anchor.attack: anchor.mse for anchor in anchors(arm, arm.best.adversary)}
        if arm.best
        else {}
        for arm in arms
    ]
    return [
        Row(
            f"{readable(name)}, same victims",
            [number(errors.get(name), numbers.significant) for errors in by_arm],
            kind="anchor",
        )
        for name in dict.fromkeys(name for errors in by_arm for name in errors)
    ]


def _more(attack: AttackResult | None) -> Cell:
    if attack is None:
        return words("no")
    value = attack.scores["reidentification"].value
    return Cell(numbers.percent(value), value, f"{readable(attack.attack)}, {attack.adversary}")
