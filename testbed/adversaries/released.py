"""What trained attacks share: querying the defended front-end, and normalising what it releases."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from testbed.adversaries.base import Evidence, FloatArray, FrontEndOracle
from testbed.core.errors import UserError

VALIDATION_DRAW = 0
"""The draw of the attacker's validation; training uses later ones, so no noise is shared."""

_PROBES = 4
_CHUNK = 256


class ReleasedFeatures:
    """Auxiliary features as the defended wire releases them, drawn afresh when they are random.

    Parameters
    ----------
    evidence : what the adversary was given.
    attack : name of the attack, for the message.

    Attributes
    ----------
    is_random : whether two draws of the same images differ.

    Raises
    ------
    UserError : the threat model grants no query access.
    """

    def __init__(self, evidence: Evidence, attack: str) -> None:
        if evidence.oracle is None:
            raise UserError(
                f"attack '{attack}' needs query access to the deployed front-end; "
                "its adversary is granted none"
            )
        self._oracle: FrontEndOracle = evidence.oracle
        self._evidence = evidence
        self._cached: FloatArray | None = None
        probes = evidence.auxiliary.images[:_PROBES]
        self.is_random = not np.array_equal(
            self._oracle.query(probes, draw=0), self._oracle.query(probes, draw=1), equal_nan=True
        )

    def training(self, epoch: int) -> FloatArray:
        """Return the features of the auxiliary images in ``epoch`` (from 0), to be read only."""
        if self._cached is None or self.is_random:
            draw = VALIDATION_DRAW + 1 + epoch
            self._cached = self._oracle.query(self._evidence.auxiliary.images, draw)
        return self._cached

    def validation(self) -> FloatArray:
        """Return the features of the attacker's validation images."""
        return self._oracle.query(self._evidence.auxiliary_validation.images, VALIDATION_DRAW)


@dataclass(frozen=True)
class ChannelNormaliser:
    """Gives every live channel unit variance, by the statistics of the auxiliary features.

    A defence that merely scales, shifts or permutes channels must not look strong (see docs on
    privacy evaluation). A channel is dead when it does not vary between samples, whatever its
    spatial pattern: it is set to zero exactly, so that constant features are all zeros.

    Attributes
    ----------
    centre : (C, 1, 1), or (C, H, W) if every element has its own.
    scale : (C, 1, 1), 1 / standard deviation between samples, 0 for a dead channel.
    """

    centre: NDArray[np.float32]
    scale: NDArray[np.float32]

    DEAD_CHANNEL_SHARE = 1e-5
    """Deviations below this share of the channel's magnitude are float32 rounding."""

    LARGEST = 50.0
    """Normalised values are clamped here: an outlier must not blow a reconstruction up."""

    @classmethod
    def fit(cls, features: FloatArray, per_element: bool = False) -> "ChannelNormaliser":
        """Fit to features (N, C, H, W); ``per_element`` centres each element by itself."""
        count = len(features)
        element_mean = np.zeros(features.shape[1:])
        for start in range(0, count, _CHUNK):
            element_mean += features[start : start + _CHUNK].sum(axis=0, dtype=np.float64)
        element_mean /= count
        variance = np.zeros(features.shape[1])
        magnitude = np.zeros(features.shape[1])
        for start in range(0, count, _CHUNK):
            part = features[start : start + _CHUNK].astype(np.float64)
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
        normalised = (features - self.centre) * self.scale
        np.nan_to_num(normalised, copy=False, nan=0.0)
        clamped: FloatArray = np.clip(normalised, -self.LARGEST, self.LARGEST)
        return clamped
