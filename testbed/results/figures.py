"""Every figure that a run reports of an arm, declared once.

The declarations drive the score fields of ``results.json``, the score columns of
``attacks.parquet``, the tables and axes of the report and of the comparison, the estimates of the
comparison, ``index.csv``, ``entries.csv``, ``compare.json`` and the table in docs/results.md. A new
score of an image is computed in :mod:`testbed.privacy.scores` and declared here.
"""

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from testbed.results.formats import (
    count,
    dollars,
    duration,
    joules,
    millijoules,
    milliseconds,
    percent,
    scaled,
    significant,
    size,
)

Format = Callable[[float | None], str]
Better = Literal["higher", "lower", ""]
Place = Literal[
    "headline",  # report: the arms compared
    "attacks",  # report: every attack on every arm
    "classes",  # report: by device class
    "tiers",  # report: by tier
    "links",  # report: by type of link
    "differences",  # results.json and report: paired differences between arms
    "leakage",  # report: measures without an attack
    "index",  # index.csv of a sweep, RunResult.headline, exports
    "sweep",  # index.html of a sweep
    "compare",  # compare.html, compare.json and entries.csv
    "groups",  # compare.html: the tier or device class that leaks most
    "terminal",  # what testbed.compare prints
    "markdown",  # Markdown table of all arms
    "ladder",  # Markdown table of all attacks by arm
]
Places = AbstractSet[Place]
ARMS: Places = frozenset({"headline", "index", "compare"})
EVERY_SCORE: Places = ARMS | {"attacks", "differences", "markdown"}
"""The tables that show a score unless it names its places."""


@dataclass(frozen=True)
class Figure:
    """One number that a run reports of an arm.

    Attributes
    ----------
    path : position in an arm of results.json; ``best`` is the best attack.
    label : heading in tables.
    better : the direction that the owner of the arm wants; orients Pareto fronts and bold cells.
    places : the tables that show it.
    name : key in compare.json and entries.csv, where it is not the last step of the path.
    column : column of requests.parquet that it is computed from; empty: one number per run.
    percentile : percentile of the column; None: its mean.
    index : name in index.csv, where it is not the key.
    interval : whether index.csv and the Markdown tables give its interval as well.
    axis : label of an axis, where it is not ``label``.
    note : meaning, as a part of a sentence.
    """

    path: str
    label: str
    fmt: Format
    better: Better = ""
    places: Places = frozenset()
    name: str = ""
    column: str = ""
    percentile: float | None = None
    index: str = ""
    interval: bool = False
    axis: str = ""
    note: str = ""

    @property
    def key(self) -> str:
        """Name in compare.json and entries.csv; of a score also in results.json."""
        return self.name or self.path.rpartition(".")[2]

    @property
    def index_key(self) -> str:
        """Name in index.csv."""
        return self.index or self.key

    @property
    def axis_label(self) -> str:
        """Label of an axis."""
        return self.axis or self.label

    def of(self, arm: Any) -> Any:
        """Return the figure of an arm: an interval or a number, None where it is unknown."""
        return value_at(arm, self.path)

    def of_attack(self, attack: Any) -> Any:
        """Return the figure of an attack."""
        return value_at(attack, self.path.removeprefix("best."))

    def of_part(self, part: Any) -> Any:
        """Return the figure of a tier or a device class, of an arm or of an attack."""
        path = self.path.removeprefix("best.scores.").removeprefix("serving.")
        return value_at(part, path.removesuffix(".test"))


@dataclass(frozen=True)
class Score(Figure):
    """A score of an attack: the mean over victims of a column of attacks.parquet.

    Attributes
    ----------
    above : the score is the share of victims whose column is above this; None: the mean.
    flag : whether the column is true or false.
    stored : whether the column is in attacks.parquet; else the scorer alone has it.
    """

    places: Places = EVERY_SCORE
    above: float | None = None
    flag: bool = False
    stored: bool = True

    @property
    def is_share(self) -> bool:
        """Whether the score counts victims."""
        return self.flag or self.above is not None

    def values(self, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        """Return the score of each victim, from the columns by name."""
        column = columns[self.column]
        return (column if self.above is None else column > self.above).astype(np.float64)


def value_at(part: Any, path: str) -> Any:
    """Return the value at a dotted path in a part of the results, None where a step is None."""
    for step in path.split("."):
        if part is None:
            return None
        part = getattr(part, step)
    return part


UTILITY = (
    Figure(
        "accuracy.test",
        "test accuracy",
        percent,
        "higher",
        ARMS | {"classes", "tiers", "sweep", "terminal", "markdown"},
        name="accuracy",
        column="correct",
        index="test_accuracy",
        interval=True,
        note="share of answered requests with the right class",
    ),
    Figure(
        "accuracy.final_validation",
        "validation accuracy",
        percent,
        "higher",
        {"index"},
        index="validation_accuracy",
        note="of the weights that are deployed",
    ),
)
ATTACKS = (
    Score(
        "best.scores.mse",
        "MSE",
        significant,
        "higher",
        EVERY_SCORE | {"classes", "tiers", "links", "groups", "sweep", "terminal", "ladder"},
        column="mse",
        interval=True,
        axis="MSE per element (images in 0 to 1)",
        note="mean squared error per element, images in [0, 1]",
    ),
    Figure(
        "mean_image_mse",
        "mean image's MSE",
        significant,
        places={"index", "sweep"},
        note="MSE of the mean image on the victims of the best attack",
    ),
    Score(
        "best.scores.psnr_db",
        "PSNR (dB)",
        significant,
        "lower",
        ARMS | {"attacks", "markdown", "ladder"},
        column="psnr_db",
        note="peak signal-to-noise ratio, at most 100 dB",
    ),
    Score(
        "best.scores.ssim",
        "SSIM",
        significant,
        "lower",
        EVERY_SCORE | {"tiers", "groups", "terminal"},
        column="ssim",
        note="structural similarity",
    ),
    Score(
        "best.scores.cosine_similarity",
        "cosine similarity",
        significant,
        "lower",
        column="cosine_similarity",
        note="of image and reconstruction, means removed; 0 where one is constant",
    ),
    Score(
        "best.scores.reidentification",
        "re-identified",
        percent,
        "lower",
        ARMS | {"attacks", "classes", "tiers", "links", "differences", "groups", "sweep", "ladder"},
        column="reidentified",
        flag=True,
        note="whether the victim's image is the nearest of the pool",
    ),
    Figure(
        "best.chance_reidentification",
        "chance",
        percent,
        places={"headline", "attacks", "index"},
        note="re-identification by a blind guess",
    ),
    Score(
        "best.scores.recognisable_share",
        "SSIM above 0.5",
        percent,
        "lower",
        {"links", "compare"},
        column="ssim",
        above=0.5,
        note="whether the SSIM is above 0.5",
    ),
    Score(
        "best.scores.class_recovered",
        "class named",
        percent,
        "lower",
        frozenset(),
        column="class_recovered",
        flag=True,
        stored=False,
        note="whether an independent classifier names the class of the reconstruction",
    ),
)
COST = (
    Figure(
        "edge.macs",
        "edge MACs",
        scaled,
        "lower",
        ARMS | {"tiers", "terminal", "markdown"},
        note="multiply-accumulates of the front-end for one image",
    ),
    Figure("edge.parameters", "edge parameters", scaled, "lower", ARMS | {"markdown"}),
    Figure(
        "edge.peak_activation_elements", "peak activation elements", scaled, "lower", {"headline"}
    ),
    Figure("edge.feature_bytes", "features", size, "lower", ARMS | {"tiers"}),
    Figure(
        "serving.latency_ms.median",
        "latency, median",
        milliseconds,
        "lower",
        ARMS | {"classes", "tiers", "sweep", "terminal"},
        name="latency_ms_median",
        column="latency_ms",
        percentile=50.0,
        index="latency_median_ms",
        axis="median latency (ms)",
    ),
    Figure(
        "serving.latency_ms.p95",
        "latency, p95",
        milliseconds,
        "lower",
        ARMS,
        name="latency_ms_p95",
        column="latency_ms",
        percentile=95.0,
        index="latency_p95_ms",
    ),
    Figure(
        "serving.energy_mj_per_request",
        "energy per request",
        millijoules,
        "lower",
        ARMS | {"classes", "sweep"},
        name="energy_mj",
        column="energy_mj",
        index="energy_mj_per_request",
        note="over requests of devices with a published power figure",
    ),
    Figure(
        "serving.work_mj_per_request",
        "the same without keeping radios awake",
        millijoules,
        "lower",
        {"headline"},
    ),
    Figure(
        "serving.cost_usd_per_1000.busy",
        "busy cloud servers, per 1,000 images",
        dollars,
        "lower",
        {"headline"},
    ),
    Figure(
        "serving.uplink_bytes_per_request",
        "uplink per request",
        size,
        "lower",
        (ARMS - {"headline"}) | {"classes", "sweep", "terminal", "markdown"},
        name="uplink_bytes",
        column="uplink_bytes",
        index="uplink_bytes_per_request",
        note="features or image, with the acknowledgement of the answer",
    ),
)
_MEASURE: Places = frozenset({"leakage", "compare", "markdown"})
LEAKAGE = (
    Figure("leakage.live_channels", "live channels", significant, "lower", _MEASURE),
    Figure("leakage.channels", "channels", significant, places={"compare"}),
    Figure("leakage.participation_ratio", "participation ratio", significant, "lower", _MEASURE),
    Figure("leakage.spectral_rank", "spectral rank", significant, "lower", _MEASURE),
    Figure("leakage.dcor_u", "dCor², bias-corrected", significant, "lower", _MEASURE),
    Figure("leakage.dcor_v", "dCor², V-statistic", significant, "lower", _MEASURE),
    Figure("leakage.hsic", "HSIC, normalised", significant, "lower", {"leakage"}),
    Figure("leakage.mean_abs_feature", "mean |z|", significant, "lower", {"leakage"}),
    Figure("leakage.nonzero_per_sample", "non-zero entries", significant, "lower", {"leakage"}),
    Figure("leakage.samples", "samples", count, places={"leakage"}),
)
PROVIDER = (
    Figure("training.provider.images", "images", count, places={"headline"}),
    Figure("training.provider.epochs", "epochs", count, places={"headline"}),
    Figure("training.provider.deployed_epoch", "epoch deployed", count, places={"headline"}),
)
_COUNT: Places = frozenset({"headline", "index"})
SERVING = (
    Figure("serving.answered", "answered", count, places=_COUNT),
    Figure("serving.unanswered", "not answered", count, places={"index"}),
    Figure("serving.deadline_misses", "answered past the deadline", count, places={"headline"}),
    Figure("serving.offline", "offline", count, places={"headline"}),
    Figure("serving.infeasible", "front-end does not fit the device", count, places={"headline"}),
    Figure(
        "serving.offloaded_raw", "sent as raw images, fully exposed", count, places={"headline"}
    ),
)
TRAINING = (
    Figure(
        "training.uplink_bytes",
        "uplink of the training",
        size,
        "lower",
        {"index"},
        index="training_uplink_bytes",
    ),
    Figure(
        "training.virtual_s",
        "virtual time of the training",
        duration,
        "lower",
        _COUNT,
        index="training_virtual_s",
        note="waits for devices that are offline or late until their replies are due",
    ),
    Figure(
        "training.energy_j",
        "energy of all devices",
        joules,
        "lower",
        _COUNT,
        index="training_energy_j",
        note="above idle, with radios waking up and staying awake",
    ),
    Figure(
        "training.wake_tail_j",
        "of it, radios waking up and staying awake",
        joules,
        places={"headline"},
    ),
    Figure(
        "training.idle_j",
        "beside it, idle power of devices in their rounds",
        joules,
        "lower",
        _COUNT,
        index="training_idle_j",
        note="from a round's first message to the device's last reply; waiting included",
    ),
    Figure("training.participations", "took part", count, places={"headline"}),
    Figure("training.stragglers", "stragglers, past the deadline", count, places=_COUNT),
    Figure("training.offline", "offline", count, places=_COUNT),
    Figure("training.failed", "failed", count, places=_COUNT),
    Figure("training.unused", "too few for the strategy", count, places={"headline"}),
    Figure("training.infeasible", "devices whose memory is too small", count, places={"headline"}),
)

GROUPS = (UTILITY, ATTACKS, LEAKAGE, COST, SERVING, TRAINING, PROVIDER)
SCORES = tuple(figure for figure in ATTACKS if isinstance(figure, Score))
"""The scores of an attack, in the order of results.json."""
SCORE_COLUMNS = {score.column: score for score in SCORES if score.stored and score.above is None}
"""The score columns of attacks.parquet, with the scores that are their means."""
FIGURES = {figure.key: figure for group in (UTILITY, ATTACKS, LEAKAGE, COST) for figure in group}
"""The figures that tables name by their keys."""


def shown_in(place: Place, *groups: tuple[Figure, ...]) -> list[Figure]:
    """Return the figures of these groups, or of all, that a table shows."""
    return [figure for group in groups or GROUPS for figure in group if place in figure.places]


def directions(place: Place) -> str:
    """Return in words which way the scores of a table point when images are hidden better."""
    labels = {
        better: [
            score.label for score in SCORES if score.better == better and place in score.places
        ]
        for better in ("higher", "lower")
    }
    return " and ".join(f"{better} {', '.join(names)}" for better, names in labels.items() if names)


def notes(place: Place) -> str:
    """Return what the scores of a table mean, a sentence each."""
    return " ".join(
        f"{score.label}: {score.note}{' (share of the victims)' if score.is_share else ''}."
        for score in SCORES
        if place in score.places
    )
