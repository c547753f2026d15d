"""Mounts one attack: a pure function of its arguments, made for a worker process."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from testbed.adversaries.base import (
    Attack,
    Evidence,
    FloatArray,
    FrontEndOracle,
    Reconstruction,
    WhiteBoxOracle,
)
from testbed.core.errors import UserError
from testbed.core.registries import ATTACKS


class _Counted:
    """A query oracle that counts the images it is asked for."""

    def __init__(self, oracle: FrontEndOracle) -> None:
        self._oracle = oracle
        self.images = 0

    def query(self, images: FloatArray, draw: int) -> FloatArray:
        self.images += len(images)
        return self._oracle.query(images, draw)


class _CountedWhiteBox(_Counted):
    """The same with gradients, where weights are granted; steps of a search are no queries."""

    _oracle: WhiteBoxOracle

    def differentiable_query(self, x: Tensor, draw: int) -> Tensor:
        return self._oracle.differentiable_query(x, draw)


def mount(
    attack_name: str,
    options: dict[str, Any],
    evidence: Evidence,
    seed: int,
    progress: Callable[[str], None] | None = None,
) -> Reconstruction:
    """Build a registered attack and run it on the evidence.

    One thread is used, whatever the process is set to: the order of a sum sets its last bits, and
    results must not depend on the host. The caller's setting is put back.

    Parameters
    ----------
    attack_name, options : the attack and its options, as in the scenario.
    evidence : everything that the threat model grants.
    seed : the scenario's seed, or a child of it for a repetition.
    progress : called with one line of text now and then.

    Raises
    ------
    UserError : the attack needs queries and the evidence grants none, or no auxiliary images.
    ValueError : an attack or options that do not exist; a validated scenario has neither.
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
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = attack.mount(replace(evidence, oracle=counted), seed, progress)
        further: tuple[FloatArray, ...] = ()
        if found.again is not None:
            further = tuple(found.again(features) for features in evidence.elsewhere)
    finally:
        torch.set_num_threads(threads)
    queries = counted.images if counted else 0
    return replace(found, queries=queries, again=None, elsewhere=further)
