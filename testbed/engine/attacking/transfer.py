"""Attacks trained on one tier's front-end and applied to the features of other tiers.

Nothing is trained again: an adversary's job gets the other tiers' features too and applies its
trained attack to them. Every cell is scored on the victims of the tier that the attack is applied
to, so that a column compares attacks on the same victims.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from testbed.adversaries.base import Reconstruction
from testbed.engine.attacking.bound_check import smoothed_features, smoothed_scores
from testbed.engine.attacking.evidence import AttackJob, TierIntercepts
from testbed.engine.attacking.scoring import score_images, victims_of
from testbed.engine.serving.serve import ServedArm
from testbed.engine.setting.models import ArmModels
from testbed.engine.setting.run_context import RunInputs
from testbed.results.schema import Transfer


def targets(
    tier_intercepts: TierIntercepts, read: Sequence[TierIntercepts]
) -> list[TierIntercepts]:
    """Return what the same adversary read of other tiers with features of the same shape."""
    if not tier_intercepts.adversary.transfer:
        return []
    return [
        other
        for other in read
        if other.adversary.name == tier_intercepts.adversary.name
        and other.tier != tier_intercepts.tier
        and other.features.shape[1:] == tier_intercepts.features.shape[1:]
    ]


def aimed_at(job: AttackJob, others: Sequence[TierIntercepts]) -> AttackJob:
    """Return the job with other tiers' features, and their smoothed victims', to apply it to."""
    apply_to = {other.label: other.features for other in others} | smoothed_features(others)
    apply_to |= job.evidence.apply_to
    return replace(job, evidence=replace(job.evidence, apply_to=apply_to))


def transfer_matrix(
    inputs: RunInputs,
    models: ArmModels,
    read: Sequence[TierIntercepts],
    found: Mapping[int, Reconstruction],
    served: ServedArm,
) -> list[Transfer]:
    """Return the transfer matrix, one cell per pair of tiers; a pair without scores says why.

    Parameters
    ----------
    read : what one adversary read, by tier.
    found : what its attack made of each tier that it was mounted on.
    """
    if len(read) < 2 or not read[0].adversary.transfer:
        return []
    cells = []
    for source in read:
        for target in read:
            applied_to = models.tiers[target.tier].device_spec.tier
            reason, smoothed, scores = _refusal(source, target), [], {}
            if not reason:
                own = found[source.tier]
                images = own.images[: len(source.items)]
                if target is not source:
                    images = own.applied[target.label]
                    made = own.applied.get(target.smoothed_label)
                    smoothed = smoothed_scores(applied_to, target.smoothed, made)
                victims = victims_of(inputs, models, target.items, served)
                scores = score_images(inputs.scenario, victims, images)
            cells.append(
                Transfer(
                    trained_on=models.tiers[source.tier].device_spec.tier,
                    applied_to=applied_to,
                    victims=len(target.items),
                    reason=reason,
                    smoothed=smoothed,
                    **scores,
                )
            )
    return cells


def _refusal(source: TierIntercepts, target: TierIntercepts) -> str:
    if not source.mountable:
        return "what the attack needs is not granted on the tier it would be trained on"
    if source.features.shape[1:] != target.features.shape[1:]:
        theirs, own = target.features.shape[1:], source.features.shape[1:]
        return f"features of {'x'.join(map(str, theirs))} and not of {'x'.join(map(str, own))}"
    return ""
