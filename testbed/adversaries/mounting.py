"""Mounts one attack: a pure function of its arguments, made for a worker process."""

from collections.abc import Callable
from typing import Any

import torch

from testbed.adversaries.base import Evidence, Reconstruction
from testbed.core.errors import UserError
from testbed.core.registries import ATTACKS


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
    attack = ATTACKS.create(attack_name, options)
    if attack.needs_oracle and evidence.oracle is None:
        raise UserError(
            f"attack '{attack_name}' needs query access to the deployed front-end; "
            "its adversary is granted none"
        )
    if len(evidence.auxiliary.images) == 0 or len(evidence.auxiliary_validation.images) == 0:
        raise UserError(
            f"attack '{attack_name}' has no auxiliary images; raise data.max_images, "
            "data.splits.auxiliary or knowledge.auxiliary_share"
        )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return attack.mount(evidence, seed, progress)
    finally:
        torch.set_num_threads(threads)
