"""Errors of attacks on smoothed victims, for which an error bound holds.

Every attack reconstructs the features of a few smoothed victims
(``testbed.engine.attacking.error_bounds``). Most attacks get them among their intercepts. Attacks
that learn from intercepts must not learn from features that never crossed the wire: they are
applied to them after learning. So are attacks that were learned on another tier, or from a part of
the data.
"""

from collections.abc import Sequence

from testbed.adversaries.base import FloatArray, Reconstruction
from testbed.engine.attacking.error_bounds import SmoothedVictims
from testbed.engine.attacking.evidence import TierIntercepts
from testbed.privacy.scores import mse
from testbed.results.schema import BoundCheck


def smoothed_features(tiers_read: Sequence[TierIntercepts]) -> dict[str, FloatArray]:
    """Return the features of each tier's smoothed victims, if it has any, by label."""
    return {
        item.smoothed_label: item.smoothed.features
        for item in tiers_read
        if item.smoothed is not None
    }


def made_of_own(tier_intercepts: TierIntercepts, found: Reconstruction) -> FloatArray | None:
    """Return an attack's reconstructions of its own tier's smoothed victims, or None.

    Anchors of an adversary whose attack learns from intercepts are not applied to them.
    """
    if tier_intercepts.smoothed is None:
        return None
    if not tier_intercepts.adversary.threat.learns_from_intercepts:
        return found.images[len(tier_intercepts.items) :]
    return found.applied.get(tier_intercepts.smoothed_label)


def smoothed_scores(
    tier: str, smoothed: SmoothedVictims | None, made: FloatArray | None
) -> list[BoundCheck]:
    """Return the error on a tier's smoothed victims with its standard error, or nothing."""
    if smoothed is None or made is None:
        return []
    errors = mse(made, smoothed.images)
    error = float(errors.std(ddof=1) / len(errors) ** 0.5) if len(errors) > 1 else None
    mean = float(errors.mean())
    return [BoundCheck(tier=tier, mse=mean, standard_error=error, images=len(errors))]
