"""Shared by trained attacks: queries to the defended front-end, and normalised features."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from testbed.adversaries.base import (
    Evidence,
    FloatArray,
    FrontEndOracle,
    LabelledImages,
    WhiteBoxOracle,
)
from testbed.adversaries.effort import Effort
from testbed.core.errors import UserError

VALIDATION_DRAW = 0
"""The draw of the attacker's validation; training uses later draws with other noise."""

_VALIDATION_REPLAYS = 500_000  # first draw of its further releases, beyond training's draws
_PROBES = 4
_CHUNK, _CHUNK_BYTES = 256, 64 << 20  # images of features in double precision at once
_TIMED = 16  # images of a query that the dry run times
_VALIDATION_SHARE = 5
MATRIX_BYTES = 6 << 30
"""Memory for the training features of a closed-form attack, with all copies of them."""
_DISTINCT_RELEASES = 64  # most releases per image of an attacker that averages replays


class ReleasedFeatures:
    """Released features of auxiliary images, with a new draw each time if releases are random.

    If intercepts are means over several releases, so are these. If queries are limited, only as
    many images are used as the limit allows, a fifth of them for validation, and new releases are
    drawn until the limit is reached.

    Parameters
    ----------
    evidence : everything that the adversary was given, with query access.

    Attributes
    ----------
    is_random : whether two draws of the same images differ.
    auxiliary, auxiliary_validation : the images that are queried.
    """

    def __init__(self, evidence: Evidence) -> None:
        assert evidence.oracle is not None, "mounting.mount refuses attacks without query access"
        self._oracle: FrontEndOracle = evidence.oracle
        self._left = evidence.query_limit
        self._cached: dict[int, FloatArray] = {}
        self._validation: FloatArray | None = None
        probes = evidence.auxiliary.images[:_PROBES]
        self.is_random = not np.array_equal(
            self._ask(probes, 0), self._ask(probes, 1), equal_nan=True
        )
        self._replays = evidence.replays if self.is_random else 1
        self.auxiliary, self.auxiliary_validation = self._affordable(evidence)

    def effort(self, trainings: float, varied: bool = False) -> Effort:
        """Return the queries of a number of passes over the training images, and the validation.

        Parameters
        ----------
        varied : whether every pass asks for new variations of the images.
        """
        oracle, few = self._oracle, self.auxiliary.images[:_TIMED]
        if not self.is_random and not varied:
            trainings = min(trainings, 1)
        elif self._replays > 1:
            trainings = min(trainings, max(1, _DISTINCT_RELEASES // self._replays))
        images = trainings * len(self.auxiliary.images) + len(self.auxiliary_validation.images)
        times = self._replays * images / len(few)
        return Effort(times, "query", lambda: oracle.query(few, 0), of_arm=True, images=len(few))

    @property
    def may_vary(self) -> bool:
        """Whether new images can be queried at any time: no limit, and one release each."""
        return self._left is None and self._replays == 1

    def affords(self, images: int) -> bool:
        """Return whether the limit of queries leaves that many further images."""
        return self._left is None or self._left >= images * self._replays

    def _affordable(self, evidence: Evidence) -> tuple[LabelledImages, LabelledImages]:
        auxiliary, validation = evidence.auxiliary, evidence.auxiliary_validation
        if self._left is None:
            return auxiliary, validation
        images = self._left // self._replays
        held_out = min(len(validation.images), max(1, images // _VALIDATION_SHARE))
        return auxiliary.first(max(1, images - held_out)), validation.first(held_out)

    def _ask(self, images: FloatArray, draw: int) -> FloatArray:
        if self._left is not None:
            self._left -= len(images)
        return self._oracle.query(images, draw)

    def release(self, images: FloatArray, epoch: int) -> FloatArray:
        """Return the features of any images in ``epoch`` (from 0), as they would be intercepted."""
        first = VALIDATION_DRAW + 1 + epoch * self._replays
        return self._mean_release(images, range(first, first + self._replays))

    def _mean_release(self, images: FloatArray, draws: range) -> FloatArray:
        if len(draws) == 1:
            return self._ask(images, draws[0])
        total: FloatArray = sum(self._ask(images, draw) / np.float32(len(draws)) for draw in draws)  # type: ignore[assignment]
        return total

    def training(self, epoch: int) -> FloatArray:
        """Return the features of the auxiliary images in ``epoch`` (from 0); do not change them."""
        if not self.is_random:
            epoch = 0
        elif self._replays > 1:
            epoch %= max(1, _DISTINCT_RELEASES // self._replays)
        if epoch in self._cached:
            return self._cached[epoch]
        cost = self._replays * len(self.auxiliary.images)
        if self._cached and self._left is not None and self._left < cost:
            return self._cached[epoch % len(self._cached)]
        features = self.release(self.auxiliary.images, epoch)
        if not self.is_random or self._replays > 1 or self._left is not None:
            self._cached[epoch] = features
        return features

    def validation(self) -> FloatArray:
        """Return the features of the attacker's validation images."""
        if self._validation is None:
            first = self._ask(self.auxiliary_validation.images, VALIDATION_DRAW)
            if self._replays > 1:
                draws = range(_VALIDATION_REPLAYS, _VALIDATION_REPLAYS + self._replays - 1)
                rest = self._mean_release(self.auxiliary_validation.images, draws)
                share = np.float32(1.0 / self._replays)
                first = share * first + (np.float32(1.0) - share) * rest
            self._validation = first
        return self._validation

    def error_of(self, images: FloatArray) -> float:
        """Return the mean squared error of reconstructions of the validation images."""
        truth = self.auxiliary_validation.images
        return float(np.square(images - truth, dtype=np.float64).mean())


def most_pairs(max_samples: int, features: int, copies: int) -> int:
    """Return how many training pairs a closed-form attack takes at most.

    Parameters
    ----------
    max_samples : its own limit.
    features : numbers in an image's features, of 4 bytes each.
    copies : how often it holds each pair's features.
    """
    return max(1, min(max_samples, MATRIX_BYTES // (4 * copies * features)))


@dataclass(frozen=True)
class ChannelNormaliser:
    """Scales every live channel to unit variance, by the statistics of the auxiliary features.

    A defence that merely scales, shifts or permutes channels must not appear strong. A channel is
    dead if it does not vary between samples, whatever its spatial pattern. Dead channels are set to
    zero exactly, so that constant features are all zeros.

    Attributes
    ----------
    centre : (C, 1, 1), or (C, H, W) if every element has its own.
    scale : (C, 1, 1), 1 / standard deviation between samples, 0 for a dead channel.
    """

    centre: NDArray[np.float32]
    scale: NDArray[np.float32]

    DEAD_CHANNEL_SHARE = 1e-5
    """Deviations below this share of the channel's magnitude are float32 rounding errors."""

    LARGEST = 50.0
    """Normalised values are clamped to this, so that an outlier cannot spoil a reconstruction."""

    @classmethod
    def fit(cls, features: FloatArray, per_element: bool = False) -> "ChannelNormaliser":
        """Fit to features (N, C, H, W); ``per_element`` centres each element separately."""
        count = len(features)
        size = max(1, min(_CHUNK, _CHUNK_BYTES // (8 * math.prod(features.shape[1:]))))
        element_mean = np.zeros(features.shape[1:])
        for start in range(0, count, size):
            element_mean += features[start : start + size].sum(axis=0, dtype=np.float64)
        element_mean /= count
        variance = np.zeros(features.shape[1])
        magnitude = np.zeros(features.shape[1])
        for start in range(0, count, size):
            part = features[start : start + size].astype(np.float64)
            magnitude += np.square(part).sum(axis=(0, 2, 3))
            variance += np.square(part - element_mean).sum(axis=(0, 2, 3))
        elements = count * features.shape[2] * features.shape[3]
        deviation, magnitude = np.sqrt(variance / elements), np.sqrt(magnitude / elements)
        live = deviation > cls.DEAD_CHANNEL_SHARE * magnitude
        scale = np.where(live, 1.0 / np.where(live, deviation, 1.0), 0.0)
        centre = element_mean if per_element else element_mean.mean(axis=(1, 2), keepdims=True)
        return cls(centre.astype(np.float32), scale.astype(np.float32)[:, None, None])

    def __call__(self, features: FloatArray) -> FloatArray:
        """Normalise features (N, C, H, W); NaN carries no information and becomes 0."""
        normalised: FloatArray = features - self.centre
        normalised *= self.scale  # in place, like the rest: features can be gigabytes
        np.nan_to_num(normalised, copy=False, nan=0.0)
        return np.clip(normalised, -self.LARGEST, self.LARGEST, out=normalised)


def granted_weights(evidence: Evidence, attack: str) -> WhiteBoxOracle:
    """Return the front-end with its weights.

    Raises
    ------
    UserError : the adversary of this attack is granted queries at most.
    """
    if not isinstance(evidence.oracle, WhiteBoxOracle):
        raise UserError(
            f"attack '{attack}' needs the weights of the deployed front-end; "
            "its adversary is granted queries only"
        )
    return evidence.oracle
