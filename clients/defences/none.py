"""No defence: hard targets, the task loss alone, features sent as they are."""

from clients.defences.base import Defence
from testbed.core.registries import DEFENCES
from testbed.core.registry import NoOptions


@DEFENCES.register("none", "no defence: task loss only, features sent as they are")
def no_defence(options: NoOptions) -> Defence:
    """Build the defence that changes nothing."""
    return Defence()
