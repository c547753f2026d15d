"""No defence: hard targets, the task loss alone, features sent as they are."""

from clients.defences.base import Defence
from testbed.core.registries import DEFENCES


@DEFENCES.register("none", "no defence: task loss only, features sent as they are")
class NoDefence(Defence):
    """Changes nothing."""
