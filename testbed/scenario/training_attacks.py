"""What must hold of a scenario whose adversaries are at the cloud while the fleet trains."""

from collections.abc import Mapping, Sequence

from testbed.core.registry import nearest
from testbed.scenario.adversary import Adversary


def check_training_attacks(
    adversaries: Sequence[Adversary], hijacked_by: Mapping[str, str | None], protocol: str
) -> None:
    """Refuse training-time attacks that cannot work, and arms hijacked by nobody who could.

    Parameters
    ----------
    hijacked_by : the adversary that steers each arm's training, by the arm's name.
    protocol : the training's.

    Raises
    ------
    ValueError : names the adversary or the arm, and what to do.
    """
    at_work = [item for item in adversaries if item.threat.watches_training]
    steering = [item.name for item in at_work if item.threat.steers_training]
    for adversary in at_work:
        where, attack = f"adversaries.{adversary.name}", f"attack '{adversary.attack.name}'"
        if adversary.position.tap != "cloud":
            raise ValueError(
                f"{where}.position.tap: {attack} is at the cloud while the fleet trains; "
                f"give 'tap: cloud', not '{adversary.position.tap}'"
            )
        if protocol != "split_federated":
            raise ValueError(
                f"{where}: {attack} works while devices train with the cloud; it needs "
                f"training.protocol: split_federated, not {protocol}"
            )
        if adversary.name in steering and adversary.name not in hijacked_by.values():
            raise ValueError(
                f"{where}: {attack} destroys the task of the arm that it steers, so an arm must "
                f"be given to it: set hijacked_by: {adversary.name} on an arm of its own"
            )
    for arm, name in hijacked_by.items():
        if name is not None and name not in steering:
            raise ValueError(
                f"arms.{arm}.hijacked_by: no adversary '{name}' whose attack steers the training"
                f"{nearest(name, steering)}; those that do: {', '.join(steering) or 'none'}"
            )
