"""The figures of the report: their titles and captions, and how to draw them all.

A figure is a function from results to a matplotlib figure, or to None without data. To add a
figure, write the function and a row of :data:`PLOTS`.
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
        "Each mark is one arm under one adversary's best attack, with 95 % intervals. Arms further "
        "right classify better; arms further up are reconstructed worse. Above the mean-image "
        "line the attack has failed; left of the majority-class line the classifier has failed. "
        "Dotted anchors belong to the arm of their colour.",
        plots_privacy.privacy_utility,
    ),
    Plot(
        "attacks_and_bounds",
        "privacy",
        "Attacks, anchors and error bounds",
        "Every attack on every arm; the strongest is named. A bound holds for any attack, known or "
        "unknown, on images smoothed by noise of standard deviation 0.1. Open marks are attacks "
        "on such images: none can lie left of the bound. Filled marks are attacks on the images "
        "themselves and can lie left of it. An arm without a bound has no guarantee. Averaging "
        "several releases of one image lowers the bound.",
        plots_bounds.attacks_and_bounds,
    ),
    Plot(
        "by_intercepts",
        "privacy",
        "Success by the number of intercepts",
        "Error of attacks that learn from intercepted features, over the number of features. The "
        "victims are the intercepted ones, so they differ between marks.",
        plots_bounds.by_intercepts,
    ),
    Plot(
        "attack_by_class",
        "privacy",
        "Best attack by device class",
        "MSE of each arm's best attack on the victims of each device class, with 95 % intervals. "
        "Overlapping intervals do not show a difference between classes. Dashed and dotted lines "
        "are the anchors.",
        plots_privacy.attack_by_class,
    ),
    Plot(
        "attack_training",
        "privacy",
        "Training of the attacks",
        "Error on the attacker's own validation images (solid) and training images (faint) per "
        "epoch; the mark is the epoch used. If a curve still falls at its end, the attack stopped "
        "too early and understates the leakage.",
        plots_privacy.attack_training,
    ),
    Plot(
        "training_curves",
        "utility",
        "Training of the arms",
        "Left: training loss per round. Right: accuracy on the validation images, which must end "
        "far above the majority-class line.",
        plots_training.training_curves,
    ),
    Plot(
        "latency",
        "cost",
        "Latency of answered requests",
        "Share of answered requests that took at most the time on the axis. Curves further left "
        "are faster. Dots mark the median, squares the 95th percentile.",
        plots_cost.latency_distribution,
    ),
    Plot(
        "latency_parts",
        "cost",
        "Where the latency goes",
        "Left: mean latency of answered requests. Right: the share of each part. A smaller "
        "front-end shortens the computing part, fewer feature bytes the uplink.",
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
        "Mean energy of one request at the device, including a cellular radio that wakes up before "
        "it and stays awake after it. The energy of device classes without a published power "
        "figure is unknown, not zero.",
        plots_cost.energy,
    ),
)


def draw_all(results: Results) -> dict[str, bytes]:
    """Return the PNG bytes of every figure that the results have data for, by name."""
    return draw_figures(PLOTS, results)
