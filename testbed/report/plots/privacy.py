"""Figures of what the attacks achieved."""

from typing import TYPE_CHECKING, Any

from testbed.pages import style
from testbed.privacy.intervals import Interval
from testbed.results.figures import FIGURES
from testbed.results.findings import (
    AnchorLine,
    adversaries,
    anchor_lines,
    readable,
)
from testbed.results.reading import Results
from testbed.results.schema import MEAN_IMAGE, ArmResult, AttackResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_COLUMNS = 3
MSE, ACCURACY = FIGURES["mse"].axis_label, FIGURES["accuracy"].axis_label


def privacy_utility(results: Results) -> "Figure | None":
    """Scatter test accuracy against the best attack's MSE, per arm and adversary."""
    points = _points(results)
    if not points:
        return None
    made, axes = style.figure(1, 1, 4.1)
    panel = axes[0][0]
    names = adversaries(results.summary)
    for index, test, attack in points:
        style.mark(
            panel,
            test,
            attack.scores.mse,
            fmt=style.marker(names.index(attack.adversary)),
            color=style.colour(index),
            # Open marks after the first adversary: they stay visible where adversaries agree.
            markersize=6.5 if attack.adversary == names[0] else 10,
            fillstyle="full" if attack.adversary == names[0] else "none",
            markeredgewidth=1.4,
            elinewidth=1.2,
            capsize=2.5,
            zorder=3,
        )
    tops = [attack.scores.mse.high or attack.mse or 0.0 for _, _, attack in points]
    lines = anchor_lines(results.summary)
    top = max([*tops, *(line.at for line in lines)])
    panel.set_ylim(-0.035 * top, top * 1.16)  # room for marks at zero
    for line in lines:
        _anchor(panel, line)
    majority = results.summary.data.majority_class_accuracy
    panel.set_xlim(max(0.0, majority - 0.05), 1.015)  # utility keeps its scale
    style.reference_line(panel, majority, "majority class", vertical=True)
    style.better(panel)
    style.percent_axis(panel.xaxis)
    panel.set(xlabel=ACCURACY, ylabel=f"best attack's {MSE}")
    _legend(made, results, names)
    return made


def _anchor(panel: "Axes", line: AnchorLine, vertical: bool = False, before: bool = False) -> None:
    """Draw an anchor: grey where all arms share it, in the arm's colour where not."""
    shade = style.MUTED if line.arm is None else style.colour(line.arm)
    is_mean = line.name == MEAN_IMAGE  # labels of neighbouring lines go to opposite ends
    dashes = (0, (4, 3)) if line.arm is None else (0, (1, 2))
    style.reference_line(
        panel, line.at, readable(line.name), vertical, dashes, shade, not is_mean, before
    )


def _points(results: Results) -> list[tuple[int, Interval, AttackResult]]:
    """Return every arm with its accuracy and its best attack by each adversary."""
    return [
        (index, arm.accuracy.test, attack)
        for index, arm in enumerate(results.arms)
        if arm.accuracy.test is not None and arm.accuracy.test.value is not None
        for adversary in adversaries(results.summary)
        if (attack := arm.best_attack(adversary)) is not None
    ]


def _legend(made: "Figure", results: Results, names: list[str]) -> None:
    """Explain colours (arms) and marks (adversaries) beside the axes."""
    arms = [style.key(arm.name, style.colour(at), "o") for at, arm in enumerate(results.arms)]
    fills = ["full", *["none"] * (len(names) - 1)]
    seen = [
        style.key(f"seen by {name}", style.MUTED, style.marker(at), fillstyle=fill)
        for at, (name, fill) in enumerate(zip(names, fills, strict=True))
    ]
    style.legend_above(made, [*arms, *seen])


def attack_training(results: Results) -> "Figure | None":
    """Draw the validation and training error of every attack that trained, per adversary."""
    curves = [
        (index, attack)
        for index, arm in enumerate(results.arms)
        for attack in arm.attacks
        if attack.training_curve and not attack.is_anchor
    ]
    names = list(dict.fromkeys(attack.adversary for _, attack in curves))
    if not names:
        return None
    made, axes = style.panels(len(names), 2, 2.7, 0.4, sharey=True)
    panels = dict(zip(names, axes.flat, strict=False))
    for index, attack in curves:
        _curve(panels[attack.adversary], index, results.arms[index], attack)
    for name, panel in panels.items():
        for line in anchor_lines(results.summary, name):
            if line.name == MEAN_IMAGE:
                style.reference_line(panel, line.at, "mean image, victims")
        panel.set(title=name, xlabel="epoch", yscale="log")
    for panel in panels.values():  # the shared range is known only now
        style.plain_log_ticks(panel.yaxis)
    for row in axes:
        row[0].set_ylabel(MSE)
    made.legend(
        *next(iter(panels.values())).get_legend_handles_labels(),
        loc="outside upper left",
        ncols=min(4, len(results.arms)),
    )
    return made


def _curve(panel: "Axes", index: int, arm: ArmResult, attack: AttackResult) -> None:
    epochs = [point.epoch for point in attack.training_curve]
    look: dict[str, Any] = {"color": style.colour(index), "linestyle": style.dash(index)}
    training = [_or_nan(point.training_mse) for point in attack.training_curve]
    validation = [_or_nan(point.validation_mse) for point in attack.training_curve]
    panel.plot(epochs, training, linewidth=1, alpha=0.45, **look)
    several = len({a.attack for a in arm.attacks if a.training_curve}) > 1
    label = f"{arm.name}, {readable(attack.attack)}" if several else arm.name
    panel.plot(epochs, validation, label=label, **look)
    if attack.best_epoch in epochs:
        best = validation[epochs.index(attack.best_epoch)]
        panel.plot(
            [attack.best_epoch], [best], marker="o", color=look["color"], markeredgecolor="white"
        )


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def attack_by_class(results: Results) -> "Figure | None":
    """Draw the best attack's MSE per device class, with intervals, one panel per adversary."""
    summary = results.summary
    names = [
        name
        for name in adversaries(summary)
        if any((best := arm.best_attack(name)) and best.by_device_class for arm in summary.arms)
    ]
    if not names:
        return None
    classes = _classes(results)
    arms = len(summary.arms)
    height = 1.1 + max(1.4, len(classes) * max(0.24, 0.13 * arms))
    made, axes = style.panels(len(names), MAX_COLUMNS, height, sharey=True, sharex=True)
    for name, panel in zip(names, axes.flat, strict=False):
        for index, arm in enumerate(summary.arms):
            best = arm.best_attack(name)
            for score in best.by_device_class if best else []:
                if score.mse.value is None:
                    continue
                style.mark(
                    panel,
                    score.mse,
                    style.within_row(classes.index(score.device_class), index, arms, 0.26),
                    fmt=style.marker(index),
                    color=style.colour(index),
                    markersize=4.5,
                    elinewidth=1.2,
                    capsize=2,
                )
        lines = anchor_lines(summary, name)
        for line in lines:
            lowest = line.at == min(other.at for other in lines if other.name == line.name)
            _anchor(panel, line, vertical=True, before=lowest)
        panel.set(title=name, xlabel=MSE)
        panel.grid(visible=False, axis="y")
    # The axes share their range: it is set once, when everything that must fit is known.
    right = max(panel.dataLim.x1 for panel in axes.flat[: len(names)])
    axes[0][0].set_xlim(-0.03 * right, 1.05 * right)
    style.rows(axes[0][0], classes)
    style.arm_legend(made, [arm.name for arm in summary.arms])
    return made


def _classes(results: Results) -> list[str]:
    """Return device classes in the fleet's order, with any that only attacks name at the end."""
    fleet = results.summary.fleet
    known = [entry.device_class for entry in fleet.device_classes]
    named = [
        score.device_class
        for arm in results.arms
        for attack in arm.attacks
        for score in attack.by_device_class
    ]
    attacked = set(named)
    ordered = [name for name in known if name in attacked]
    return list(dict.fromkeys([*ordered, *named]))
