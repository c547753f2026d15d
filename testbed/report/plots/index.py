"""The figures of the report: which there are, how each is to be read, and drawing them all.

Every figure is one function from results to a matplotlib figure, or None where the results hold
nothing to draw. Adding a figure is a function and a row of :data:`PLOTS`.
"""

from testbed.pages.plots import Plot, draw_figures
from testbed.report.plots import cost as plots_cost
from testbed.report.plots import error_bounds as plots_bounds
from testbed.report.plots import privacy as plots_privacy
from testbed.report.plots import training as plots_training
from testbed.results.reading import Results

PLOTS: tuple[Plot[Results], ...] = (
    Plot(
        "privacy_utility",
        "privacy",
        "Privacy against utility",
        "Each mark is one arm under one adversary's best attack, with 95 % intervals: further "
        "right answers better, further up is reconstructed worse, so up and right is better; "
        "above the mean-image line the attack has failed, left of the majority-class line the "
        "arm has. Dotted anchors belong to the arm of their colour.",
        plots_privacy.privacy_utility,
    ),
    Plot(
        "attacks_and_bounds",
        "privacy",
        "Attacks, anchors and error bounds",
        "Every attack of every arm on one axis, the strongest one named. A bound holds for any "
        "attack there will ever be, on images smoothed by noise of deviation 0.1: open marks are "
        "attacks on such images, and none of them may lie left of it; filled marks, on the images "
        "as they are, may. An arm without a bound is guaranteed nothing. Where releases of one "
        "image are averaged, the error bound is lower.",
        plots_bounds.attacks_and_bounds,
    ),
    Plot(
        "by_intercepts",
        "privacy",
        "Success by the number of intercepts",
        "Error of attacks that learn from what they intercept, over how many features they had. "
        "The victims are those intercepted, so they differ from mark to mark.",
        plots_bounds.by_intercepts,
    ),
    Plot(
        "attack_by_class",
        "privacy",
        "Best attack by device class",
        "MSE of each arm's best attack on the victims of one device class, with 95 % intervals: "
        "overlapping intervals do not show a difference between classes. Dashed and "
        "dotted lines are the anchors.",
        plots_privacy.attack_by_class,
    ),
    Plot(
        "attack_training",
        "privacy",
        "Training of the attacks",
        "Error on the attacker's own validation images (solid) and training images (faint) per "
        "epoch; the mark is the epoch used. A curve still falling at its end would mean an attack "
        "stopped too early, which would flatter the defence.",
        plots_privacy.attack_training,
    ),
    Plot(
        "training_curves",
        "utility",
        "Training of the arms",
        "Left, training loss per round; right, accuracy on the validation images, which must "
        "leave the majority-class line well behind.",
        plots_training.training_curves,
    ),
    Plot(
        "latency",
        "cost",
        "Latency of answered requests",
        "Share of answered requests that took at most the time on the axis: a curve further left "
        "is faster; dots mark the median and squares the 95th percentile.",
        plots_cost.latency_distribution,
    ),
    Plot(
        "latency_parts",
        "cost",
        "Where the latency goes",
        "Left, the mean latency of answered requests; right, what share of it each part takes: a "
        "long computing part is relieved by a smaller front-end, a long uplink by fewer feature "
        "bytes.",
        plots_cost.latency_parts,
    ),
    Plot(
        "bytes",
        "cost",
        "Bytes on the wire",
        "Serialised bytes per request and for the whole training, uplink (filled) and downlink "
        "(pale).",
        plots_cost.byte_budget,
    ),
    Plot(
        "energy",
        "cost",
        "Energy of a request at the device",
        "Mean energy a device spends on one request, with what a cellular radio draws while waking "
        "up before and staying awake after it; where no power figure is published for a device "
        "class its energy is unknown, which is not zero.",
        plots_cost.energy,
    ),
)


def draw_all(results: Results) -> dict[str, bytes]:
    """Return the PNG bytes of every figure that the results have data for, by name."""
    return draw_figures(PLOTS, results)
