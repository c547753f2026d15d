"""Collects what a threat model grants: the evidence is all that an adversary's process gets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from clients.deployed import DeployedFrontEnd
from testbed.adversaries.base import (
    Evidence,
    FloatArray,
    FrontEndOracle,
    Intercepts,
    Reconstruction,
)
from testbed.core.seeds import child
from testbed.engine.attacking.error_bounds import SmoothedVictims
from testbed.engine.hosts.backend import Backend
from testbed.engine.hosts.queries import QueryAccess
from testbed.engine.network.taps import Intercept
from testbed.engine.setting.auxiliary_data import held_images
from testbed.engine.setting.run_context import RunInputs
from testbed.scenario.adversary import Adversary
from testbed.scenario.components import Component

ANCHORS = (
    Component(name="mean_image", options={}),
    Component(name="class_mean_image", options={}),
)


@dataclass(frozen=True)
class AttackJob:
    """Everything that an adversary's process gets."""

    attacks: tuple[Component, ...]
    evidence: Evidence
    seed: int


@dataclass(frozen=True)
class TierIntercepts:
    """What one adversary intercepted from the devices of one tier, on the scorer's side.

    Attributes
    ----------
    holds_weights : whether it has this tier's weights, by grant or from the colluding device.
    items : its intercepts, with the devices and requests that they came from.
    features : what it works on, (N, C, H, W): one release each, or means over several.
    smoothed : smoothed victims of this tier for the comparison with an error bound, or None.
    mountable : whether the attack's needs are granted on this tier; else it is transferred to only.
    """

    adversary: Adversary
    tier: int
    holds_weights: bool
    items: Sequence[Intercept]
    features: FloatArray
    smoothed: SmoothedVictims | None
    mountable: bool = True

    @property
    def label(self) -> str:
        """Return the label of the tier's features, for attacks learned on another tier."""
        return f"tier {self.tier}"

    @property
    def smoothed_label(self) -> str:
        """Return the label of the smoothed victims' features."""
        return f"tier {self.tier}, smoothed"


@dataclass(frozen=True)
class Mounted:
    """An attack's reconstructions, and what it cost this host.

    Attributes
    ----------
    peak_mb : the most memory that its process held during it above what it held before; None:
        unknown.
    """

    reconstruction: Reconstruction
    cpu_s: float
    peak_mb: float | None = None


def together(costs: Sequence[Mounted]) -> dict[str, Any]:
    """Return the cost of an attack over its tiers or rounds, which may run after one another."""
    peaks = [item.peak_mb for item in costs]
    known = [peak for peak in peaks if peak is not None]
    return {
        "cpu_s": sum(item.cpu_s for item in costs),
        "peak_mb": max(known) if known and len(known) == len(peaks) else None,
    }


@dataclass(frozen=True)
class Outcome:
    """An adversary's job on one tier's intercepts, with what came of it.

    Attributes
    ----------
    share : of what its attack learns from; 1 for all of it, then with the anchors before it.
    """

    tier_intercepts: TierIntercepts
    share: float
    job: AttackJob
    mounted: Sequence[Mounted]

    @property
    def reconstruction(self) -> Reconstruction:
        """What the adversary's own attack reconstructed."""
        return self.mounted[-1].reconstruction


def attack_job(
    inputs: RunInputs,
    deployed: DeployedFrontEnd,
    tier_intercepts: TierIntercepts,
    answers: Mapping[int, int],
    backend: Backend,
    trained: Mapping[str, FloatArray] | None = None,
) -> AttackJob:
    """Collect what the threat model grants; nothing here names a device, a person or an image.

    Parameters
    ----------
    trained : what the adversary has learned at the cloud while the fleet trained.
    """
    adversary, seed = tier_intercepts.adversary, inputs.scenario.seed
    knowledge = adversary.knowledge
    auxiliary, validation = held_images(adversary, inputs.data, inputs.foreign, seed)
    # The same seed on every arm: the arms face the same attacker.
    draw = child(seed, f"adversary {adversary.name}")
    features = tier_intercepts.features
    answered = np.array([answers[item.request] for item in tier_intercepts.items], dtype=np.int64)
    needs = adversary.threat
    apply_to: dict[str, FloatArray] = {}
    if tier_intercepts.smoothed is not None and needs.learns_from_intercepts:
        # It must not learn from features that never crossed the wire.
        apply_to = {tier_intercepts.smoothed_label: tier_intercepts.smoothed.features}
    elif tier_intercepts.smoothed is not None:
        features = np.concatenate([features, tier_intercepts.smoothed.features])
        answered = np.append(answered, np.full(len(tier_intercepts.smoothed.features), -1))
    evidence = Evidence(
        num_classes=inputs.data.pool.num_classes,
        auxiliary=auxiliary,
        auxiliary_validation=validation,
        intercepts=Intercepts(features, answered),
        oracle=_oracle(deployed, tier_intercepts, draw, backend) if needs.queries else None,
        query_limit=None if tier_intercepts.holds_weights else adversary.query_limit,
        architecture=deployed.device_spec.front_end
        if needs.architecture and knowledge.architecture
        else None,
        replays=knowledge.replays,
        apply_to=apply_to,
        trained=trained,
    )
    names = {adversary.attack.name}
    attacks = (*(anchor for anchor in ANCHORS if anchor.name not in names), adversary.attack)
    return AttackJob(attacks, evidence, draw)


def _oracle(
    deployed: DeployedFrontEnd, tier_intercepts: TierIntercepts, draw: int, backend: Backend
) -> FrontEndOracle:
    """Return the front-end itself where weights are granted, else a way to ask it alone."""
    # Its own random draws: with the scenario's seed an adversary could undo a defence's noise.
    front_end = replace(deployed, device_spec=replace(deployed.device_spec, seed=draw))
    if tier_intercepts.holds_weights:
        return front_end
    adversary = tier_intercepts.adversary
    return backend.open_queries(front_end, adversary.name, adversary.query_limit)


def query_access(job: AttackJob) -> QueryAccess | None:
    """Return the adversary's access to a query service, where it has one."""
    oracle = job.evidence.oracle
    return oracle if isinstance(oracle, QueryAccess) else None


def close_oracle(job: AttackJob, backend: Backend) -> None:
    """End the adversary's query access, where it had a service for it."""
    access = query_access(job)
    if access is not None:
        backend.close_queries(access)
