"""What attacks make of smoothed victims, and the errors that an error bound holds for.

Every attack is shown the features of a few smoothed victims
(``testbed.engine.attacking.error_bounds``): most beside their intercepts; those that learn from
intercepts apart, since they must not learn from what never crossed the wire. So are attacks that
another tier's front-end taught, and those that learned from a part of what they had.
"""

from collections.abc import Sequence
from typing import Any

from testbed.adversaries.base import FloatArray, Reconstruction
from testbed.engine.attacking.error_bounds import SmoothedVictims
from testbed.engine.attacking.evidence import TierIntercepts
from testbed.privacy.scores import mse

Row = dict[str, Any]


def features_apart(tiers_read: Sequence[TierIntercepts]) -> tuple[FloatArray, ...]:
    """Return the features of the smoothed victims of these readings, where there are any."""
    return tuple(item.smoothed.features for item in tiers_read if item.smoothed is not None)


def made_of_own(tier_intercepts: TierIntercepts, found: Reconstruction) -> FloatArray | None:
    """Return what a whole attack made of its own tier's smoothed victims, or None.

    Anchors that are mounted beside an attack which learns from intercepts apply nothing to others.
    """
    if tier_intercepts.smoothed is None:
        return None
    if not tier_intercepts.adversary.threat.learns_from_intercepts:
        return found.images[len(tier_intercepts.items) :]
    return found.elsewhere[-1] if found.elsewhere else None


def made_of_target(
    others: Sequence[TierIntercepts], target: TierIntercepts, found: Reconstruction
) -> FloatArray | None:
    """Return what an attack made of the smoothed victims of one of the other tiers, or None.

    Parameters
    ----------
    others : the readings that the attack was aimed at, in that order.
    """
    if target.smoothed is None:
        return None
    smoothed = [item.tier for item in others if item.smoothed is not None]
    return found.elsewhere[len(others) + smoothed.index(target.tier)]


def smoothed_scores(
    tier: str, smoothed: SmoothedVictims | None, made: FloatArray | None
) -> list[Row]:
    """Return the error on a tier's smoothed victims with its standard error, or nothing."""
    if smoothed is None or made is None:
        return []
    errors = mse(made, smoothed.images)
    error = float(errors.std(ddof=1) / len(errors) ** 0.5) if len(errors) > 1 else None
    return [
        {
            "tier": tier,
            "mse": float(errors.mean()),
            "standard_error": error,
            "images": len(errors),
        }
    ]
