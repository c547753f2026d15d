"""The order of grants: which adversary can mount the attack of which other one."""

from math import inf

from testbed.results.schema import Grants

_YES_OR_NO = ("weights", "labels", "answers", "architecture", "watches_training", "steers_training")
_FROM_WEIGHTS = ("architecture",)  # who holds the weights knows the architecture


def allows(more: Grants, less: Grants) -> bool:
    """Return whether an adversary with ``more`` can mount an attack that used ``less``.

    Another dataset's images are neither more nor less than the run's own.
    """
    return (
        less.auxiliary_data == more.auxiliary_data
        and more.auxiliary_classes in ("all", less.auxiliary_classes)
        and less.auxiliary_images <= more.auxiliary_images
        and less.replays <= more.replays
        and _queries(less) <= _queries(more)
        and all(_has(more, name) or not getattr(less, name) for name in _YES_OR_NO)
    )


def _has(grants: Grants, name: str) -> bool:
    return bool(getattr(grants, name)) or (grants.weights and name in _FROM_WEIGHTS)


def _queries(grants: Grants) -> float:
    """Return how many images may be asked for; who holds the weights asks a copy."""
    return inf if grants.weights or grants.queries is True else float(grants.queries)
