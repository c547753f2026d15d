"""Mounting of one attack, as a pure function that worker processes call."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from testbed.adversaries.base import (
    Attack,
    Evidence,
    FloatArray,
    FrontEndOracle,
    Reconstruction,
    Report,
    WhiteBoxOracle,
    silent,
)
from testbed.core.errors import UserError
from testbed.core.registries import ATTACKS
from testbed.core.threads import torch_threads


class _Counted:
    """A query oracle that counts the images of its queries."""

    def __init__(self, oracle: FrontEndOracle) -> None:
        self._oracle = oracle
        self.images = 0

    def query(self, images: FloatArray, draw: int) -> FloatArray:
        self.images += len(images)
        return self._oracle.query(images, draw)


class _CountedWhiteBox(_Counted):
    """The same with gradients if weights are granted; steps of a search are not queries."""

    _oracle: WhiteBoxOracle

    def differentiable_query(self, x: Tensor, draw: int) -> Tensor:
        return self._oracle.differentiable_query(x, draw)


def mount(
    attack_name: str,
    options: dict[str, Any],
    evidence: Evidence,
    seed: int,
    report: Report = silent,
) -> Reconstruction:
    """Build a registered attack and run it on the evidence.

    It runs in one thread: the order of a sum determines its last bits, and results must not depend
    on the host. The caller's number of threads is restored afterwards.

    Parameters
    ----------
    attack_name, options : the attack and its options, as in the scenario.
    evidence : everything that the threat model grants.
    seed : the scenario's seed, or a child of it for a repetition.
    report : takes the attack's progress.

    Raises
    ------
    UserError : the attack needs queries and is granted none, or has no auxiliary images.
    ValueError : unknown attack or options, which a validated scenario cannot have.
    """
    attack: Attack = ATTACKS.create(attack_name, options)
    if attack.threat.queries and evidence.oracle is None:
        raise UserError(
            f"attack '{attack_name}' needs query access to the deployed front-end; "
            "its adversary is granted none"
        )
    if len(evidence.auxiliary.images) == 0 or len(evidence.auxiliary_validation.images) == 0:
        raise UserError(
            f"attack '{attack_name}' has no auxiliary images; raise data.max_images, "
            "data.splits.auxiliary or knowledge.auxiliary_share"
        )
    counted: _Counted | None = None
    if isinstance(evidence.oracle, WhiteBoxOracle):
        counted = _CountedWhiteBox(evidence.oracle)
    elif evidence.oracle is not None:
        counted = _Counted(evidence.oracle)
    with torch_threads(1):
        result = attack.mount(replace(evidence, oracle=counted, apply_to={}), seed, report)
        applied: dict[str, FloatArray] = {}
        if result.again is not None:
            applied = {label: result.again(z) for label, z in evidence.apply_to.items()}
    queries = counted.images if counted else 0
    return replace(result, queries=queries, again=None, applied=applied)
