"""The typed form of what ``results.json`` says about attacks, error bounds and leakage."""

from typing import Annotated, Any

from pydantic import Field

from testbed.results.schema_parts import Count, Interval, Name, Number, Part


class InformationBound(Part):
    """A lower bound on the information of images and features; ``reason`` says why there is none.

    The ceiling is what the estimator reaches at most, null where it has none.
    """

    nats: Number = None
    ceiling_nats: Number = None
    held_out: Count = None
    reason: str = ""


class Information(Part):
    """The trained bounds on the information, on so many pairs of an image and its features."""

    pairs: Count = None
    mine: InformationBound = InformationBound()
    mine_bounded: InformationBound = InformationBound()
    infonce: InformationBound = InformationBound()


class Leakage(Part):
    """Attack-free measures on the released features."""

    channels: Count = None
    live_channels: Count = None
    participation_ratio: Number = None
    spectral_rank: Number = None
    dcor_v: Number = None
    dcor_u: Number = None
    hsic: Number = None
    mean_abs_feature: Number = None
    nonzero_per_sample: Number = None
    samples: Count = None
    information: Information | None = None


class Scores(Part):
    """Scores of one attack's reconstructions."""

    mse: Interval = Interval()
    psnr_db: Interval = Interval()
    ssim: Interval = Interval()
    reidentification: Interval = Interval()
    recognisable_share: Interval = Interval()
    class_recovered: Interval = Interval()
    pool_size: Count = None
    chance_reidentification: Number = None


class CurvePoint(Part):
    """One epoch of an attack's training."""

    epoch: int
    training_mse: Number = None
    validation_mse: Number = None


class AttackOnClass(Part):
    """Scores of one attack on the victims of one device class."""

    device_class: str
    victims: Count = None
    mse: Interval | None = None
    psnr_db: Interval | None = None
    ssim: Interval | None = None
    reidentification: Interval | None = None


class AttackOnTier(Part):
    """Scores of one attack on the victims of one tier."""

    tier: str
    victims: Count = None
    mse: Interval | None = None
    psnr_db: Interval | None = None
    ssim: Interval | None = None
    reidentification: Interval | None = None
    best_epoch: int | None = None
    reached_plateau: bool | None = None
    curve: list[CurvePoint] = Field(default=[])


class AttackOnLink(Part):
    """Scores of one attack on the victims behind one type of link."""

    link: str
    victims: Count = None
    mse: Interval | None = None
    recognisable_share: Interval | None = None
    reidentification: Interval | None = None


class Extreme(Part):
    """The best, median or worst reconstruction of an attack."""

    rank: str
    mse: Number = None
    ssim: Number = None


class Inferred(Part):
    """What an attack said of classes and persons, beside chance."""

    class_: Annotated[Interval | None, Field(alias="class")] = None
    majority_class: Number = None
    same_person: Interval | None = None
    chance_same_person: Number = None


class BoundCheck(Part):
    """An attack's error on the smoothed victims of a tier, which an error bound holds for."""

    tier: str
    mse: Number = None


class Transfer(Part):
    """An attack trained on one tier, on the victims of another; ``reason`` where it cannot be."""

    trained_on: str
    applied_to: str
    victims: Count = None
    reason: str = ""
    smoothed: list[BoundCheck] = Field(default=[])
    mse: Interval | None = None
    ssim: Interval | None = None
    reidentification: Interval | None = None


class AmountPoint(Part):
    """An attack with a share of what it learns from."""

    share: Number = None
    amount: Count = None
    queries: Count = None
    smoothed: list[BoundCheck] = Field(default=[])
    mse: Interval | None = None
    ssim: Interval | None = None
    reidentification: Interval | None = None


class AmountCurve(Part):
    """Success against the amount intercepted, queried or owned, on the same victims."""

    unit: str
    victims: Count = None
    points: list[AmountPoint] = Field(default=[])


class Grants(Part):
    """What an attack used beside its intercepts; whoever is granted as much can mount it."""

    weights: bool = False
    queries: bool | int = Field(
        default=False, description="none, without a limit, or at most so many images"
    )
    replays: int = Field(default=1, description="releases of each victim's image, averaged")
    auxiliary_data: str | None = Field(
        default=None, description="dataset of its own images, null for the run's"
    )
    auxiliary_classes: str = Field(default="all", description="all, or disjoint_half")
    auxiliary_images: int = Field(default=0, description="how many images of its own it held")
    labels: bool = False
    answers: bool = False
    architecture: bool = False
    watches_training: bool = False
    steers_training: bool = False


class AttackResult(Part):
    """One attack of one adversary on one arm."""

    adversary: Name
    attack: Name
    is_anchor: bool
    rebuilds_images: bool = True
    learns_from_intercepts: bool = False
    threat_model: str = ""
    conduct: str = ""
    grants: Grants | None = Field(
        default=None, description="null in results written before grants were recorded as data"
    )
    replays: Count = None
    position: Any = None
    victims: Count = None
    raw_requests: Count = None
    # Some writers keep pool size and chance beside the scores, some within; both are read.
    scores: Scores = Scores()
    pool_size: Count = None
    chance_reidentification: Number = None
    worse_than_mean_image: bool | None = None
    body_parameters: Count = None
    best_epoch: int | None = None
    reached_plateau: bool | None = Field(
        default=None,
        description="whether its training ended on a plateau on every tier, not at its limit of "
        "epochs; null for attacks that do not train until one, and in older results",
    )
    curve: list[CurvePoint] = Field(default=[])
    queries: Count = None
    extremes: list[Extreme] = Field(default=[])
    smoothed: list[BoundCheck] = Field(default=[])
    transfer: list[Transfer] = Field(default=[])
    by_amount: AmountCurve | None = None
    class_on_originals: Number = None
    inferred: Inferred | None = None
    by_link: list[AttackOnLink] = Field(default=[])
    by_device_class: list[AttackOnClass] = Field(default=[])
    by_tier: list[AttackOnTier] = Field(default=[])


class BoundLevel(Part):
    """The bound on the MSE for means over so many releases, and the estimates that it is made of.

    ``mse`` is null where no bound was computed, and else three standard errors below an estimate.
    """

    mse: Number = None
    dfil: Number = None
    dfil_error: Number = None
    spectrum: Number = None
    spectrum_error: Number = None
    noise_free: Number = None
    cem_relative: Number = None
    replays: Count = None


class Hijack(Part):
    """Who steered an arm's training, an honest arm beside it, and what devices could notice.

    A label gap is the mean cosine between gradients of one class minus that between classes.
    """

    adversary: str
    attack: str
    honest_arm: str | None = None
    label_gap_honest: Number = None
    label_gap_sent: Number = None
    batches: Count = None


class ErrorBound(Part):
    """What is guaranteed of a tier of an arm; ``reason`` says in words why there is nothing."""

    tier: str = ""
    reason: str = ""
    levels: list[BoundLevel] = Field(default=[])


class Differences(Part):
    """Paired differences of scores, with hierarchical intervals."""

    mse: Interval | None = None
    ssim: Interval | None = None
    reidentified: Interval | None = None


class ArmComparison(Part):
    """An arm against the first one, by one adversary's best attacks, over shared victims."""

    arm: str
    reference: str
    adversary: str
    attack: str
    reference_attack: str
    victims: Count = None
    devices: Count = None
    difference: Differences = Differences()
