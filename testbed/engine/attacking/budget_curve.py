"""Attack success against the amount intercepted, queried or owned, on one fixed set of victims.

The attack is mounted again with a part of what it learns from, and what it has learned is applied
to everything that its adversary intercepted: the victims are the same at every point, and the last
point is the attack as it stands in the results. Parts are nested: a larger one holds the smaller.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from clients.deployed import DeployedFrontEnd
from testbed.adversaries.base import Evidence, FloatArray, Intercepts
from testbed.core.seeds import generator
from testbed.engine.attacking.bound_check import smoothed_features, smoothed_scores
from testbed.engine.attacking.evidence import AttackJob, Outcome, TierIntercepts, attack_job
from testbed.engine.attacking.scoring import score_images, victims_of
from testbed.engine.hosts.backend import Backend
from testbed.engine.serving.serve import ServedArm
from testbed.engine.setting.models import ArmModels
from testbed.engine.setting.run_context import RunInputs
from testbed.results.schema import AmountCurve, AmountPoint, BoundCheck
from testbed.scenario.adversary import Adversary


def partial_job(
    inputs: RunInputs,
    deployed: DeployedFrontEnd,
    tier_intercepts: TierIntercepts,
    share: float,
    served: ServedArm,
    backend: Backend,
) -> AttackJob:
    """Return the adversary's job with a share of what its attack learns from."""
    part = replace(
        tier_intercepts, adversary=_with_share(tier_intercepts.adversary, share), smoothed=None
    )
    apply_to = smoothed_features([tier_intercepts])
    job = attack_job(inputs, deployed, part, served.answers, backend)
    evidence = replace(job.evidence, apply_to=apply_to)
    if tier_intercepts.adversary.learns_from == "intercepts":
        everything = evidence.intercepts
        count = len(everything.answers)
        order = generator(job.seed, "part of the intercepts").permutation(count)
        rows = np.sort(order[: max(1, round(share * count))])
        kept = Intercepts(everything.features[rows], everything.answers[rows])
        apply_to = {tier_intercepts.label: everything.features, **apply_to}
        evidence = replace(evidence, intercepts=kept, apply_to=apply_to)
    return AttackJob((tier_intercepts.adversary.attack,), evidence, job.seed)


def _with_share(adversary: Adversary, share: float) -> Adversary:
    """Return the adversary with fewer queries or images; its name, which seeds it, stays."""
    knowledge = adversary.knowledge
    changed: dict[str, float] = {}
    if adversary.learns_from == "queries" and adversary.query_limit is not None:
        changed = {"queries": round(share * adversary.query_limit)}
    elif adversary.learns_from == "auxiliary images":
        changed = {"auxiliary_share": share * knowledge.auxiliary_share}
    return adversary.model_copy(update={"knowledge": knowledge.model_copy(update=changed)})


def amount_curve(
    inputs: RunInputs, models: ArmModels, outcomes: Sequence[Outcome], served: ServedArm
) -> AmountCurve | None:
    """Return the curve of one adversary's attack, or None where its scenario asks for none.

    Parameters
    ----------
    outcomes : of every share and tier, those of the whole amount (share 1) among them.
    """
    adversary = outcomes[0].tier_intercepts.adversary
    unit = adversary.learns_from
    if not adversary.curve or unit is None:
        return None
    points = []
    for share in sorted({outcome.share for outcome in outcomes}):
        own = [outcome for outcome in outcomes if outcome.share == share]
        intercepts = [item for outcome in own for item in outcome.tier_intercepts.items]
        victims = victims_of(inputs, models, intercepts, served)
        images = np.concatenate([_images(outcome) for outcome in own])
        points.append(
            AmountPoint(
                share=share,
                amount=_amount(unit, [outcome.job.evidence for outcome in own]),
                queries=sum(outcome.reconstruction.queries for outcome in own),
                smoothed=[error for outcome in own for error in _bound_check(models, outcome)],
                **score_images(inputs.scenario, victims, images),
            )
        )
    return AmountCurve(unit=unit, victims=len(intercepts), points=points)


def _images(outcome: Outcome) -> FloatArray:
    """Return the reconstructions of all intercepts, whether or not the attack learned from them."""
    intercepts, reconstruction = outcome.tier_intercepts, outcome.reconstruction
    if outcome.share < 1.0 and intercepts.adversary.threat.learns_from_intercepts:
        return reconstruction.applied[intercepts.label]
    return reconstruction.images[: len(intercepts.items)]


def _bound_check(models: ArmModels, outcome: Outcome) -> list[BoundCheck]:
    """Return the error on smoothed victims; empty for the whole amount, reported apart."""
    intercepts = outcome.tier_intercepts
    if outcome.share == 1.0 or intercepts.smoothed is None:
        return []
    tier = models.tiers[intercepts.tier].device_spec.tier
    made = outcome.reconstruction.applied[intercepts.smoothed_label]
    return smoothed_scores(tier, intercepts.smoothed, made)


def _amount(unit: str, evidence: Sequence[Evidence]) -> int:
    """Return how much there was to learn from, over all tiers; images are the same on each."""
    if unit == "intercepts":
        return sum(len(item.intercepts.answers) for item in evidence)
    if unit == "queries":
        return sum(item.query_limit or 0 for item in evidence)
    return max(len(item.auxiliary.labels) for item in evidence)
