"""Tiers: which devices run an arm's own front-end, an assigned one, or a smaller one."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from testbed.core.registries import DEFENCES, FRONT_ENDS
from testbed.engine.hosts.host import device_of, node_of
from testbed.fleet.cost_model import serving_feasibility
from testbed.fleet.layer_stats import LayerStats
from testbed.fleet.sampling import Fleet
from testbed.scenario.components import Component, overridden
from testbed.scenario.schema import Arm, Change, FleetSection, Precision

OWN = "own"  # the name of the tier that runs the arm's own front-end
SMALLEST_WIDTH = 8


@dataclass(frozen=True)
class TierSpec:
    """Front-end, defence and precision of one tier."""

    name: str
    front_end: Component
    defence: Component
    precision: Precision


@dataclass(frozen=True)
class TierPlan:
    """The tiers of one arm; the first is its own front-end, whether or not a device runs it.

    Attributes
    ----------
    tier_of : (N,) index into ``specs`` of every device.
    """

    specs: tuple[TierSpec, ...]
    tier_of: NDArray[np.unsignedinteger[Any]]


class NodeTiers(Mapping[int, int]):
    """The tier of each Flower node, without an object per node.

    Parameters
    ----------
    tier_of : (N,) the tier of every device; not copied.
    """

    def __init__(self, tier_of: NDArray[np.unsignedinteger[Any]]) -> None:
        self._tier_of = tier_of

    def __getitem__(self, node: int) -> int:
        """Return a node's tier."""
        device = device_of(node)
        if not 0 <= device < len(self._tier_of):
            raise KeyError(node)
        return int(self._tier_of[device])

    def __iter__(self) -> Iterator[int]:
        """Yield the nodes in the order of their devices."""
        return (node_of(device) for device in range(len(self._tier_of)))

    def __len__(self) -> int:
        """Return the number of nodes."""
        return len(self._tier_of)


def plan_tiers(
    section: FleetSection, fleet: Fleet, arm: Arm, stats_of: Callable[[TierSpec], LayerStats]
) -> TierPlan:
    """Assign a tier to every device of the fleet.

    Parameters
    ----------
    stats_of : sizes of a tier's front-end at the run's image size.

    Raises
    ------
    ValueError : a front-end does not work at this image size.
    """
    specs = [TierSpec(OWN, arm.front_end, arm.defence, arm.precision)]
    of_model = np.zeros(len(fleet.models), dtype=np.int64)
    free = np.ones(len(fleet.models), dtype=bool)
    for item in section.assignments:
        if item.arms is not None and arm.name not in item.arms:
            continue
        named = {*item.devices}
        chosen = np.array([bool({m.name, m.device_class} & named) for m in fleet.models]) & free
        specs.append(
            TierSpec(
                item.name,
                overridden(FRONT_ENDS, arm.front_end, item.front_end),
                overridden(DEFENCES, arm.defence, item.defence),
                item.precision or arm.precision,
            )
        )
        of_model[chosen] = len(specs) - 1
        free &= ~chosen
    if section.infeasible == "smaller_front_end":
        specs, of_model = _shrunk(section, fleet, specs, of_model, stats_of)
    return _without_empty(specs, of_model[fleet.model_index])


def _shrunk(
    section: FleetSection,
    fleet: Fleet,
    specs: Sequence[TierSpec],
    of_model: NDArray[np.int64],
    stats_of: Callable[[TierSpec], LayerStats],
) -> tuple[list[TierSpec], NDArray[np.int64]]:
    """Assign the first fitting smaller front-end to device models that a front-end does not fit."""
    extended, moved = list(specs), of_model.copy()
    for number, spec in enumerate(specs):
        here = np.flatnonzero(of_model == number)
        stats = stats_of(spec) if len(here) else None
        too_small = [
            int(index)
            for index in here
            if stats and not serving_feasibility(fleet.models[int(index)], stats).fits
        ]
        for step, front_end in enumerate(_smaller(spec.front_end, section.smaller_front_ends), 1):
            if not too_small:
                break
            smaller = replace(spec, name=f"{spec.name}-smaller-{step}", front_end=front_end)
            stats = stats_of(smaller)
            fitting = [i for i in too_small if serving_feasibility(fleet.models[i], stats).fits]
            if fitting:
                extended.append(smaller)
                moved[fitting] = len(extended) - 1
                too_small = [index for index in too_small if index not in fitting]
    return extended, moved


def _smaller(front_end: Component, changes: Sequence[Change] | None) -> Iterator[Component]:
    """Yield the scenario's candidates, or the same front-end at repeatedly halved width."""
    if changes is not None:
        for change in changes:
            yield overridden(FRONT_ENDS, front_end, change)
        return
    width = front_end.options.get("width")
    while isinstance(width, int) and width // 2 >= SMALLEST_WIDTH:
        width //= 2
        try:
            yield overridden(FRONT_ENDS, front_end, {"width": width})
        except ValueError:
            return  # below the front-end's smallest width


def _without_empty(specs: Sequence[TierSpec], tier_of: NDArray[np.int64]) -> TierPlan:
    """Remove empty tiers; the first stays, since it defines the shared trunk."""
    used = [0, *(number for number in range(1, len(specs)) if (tier_of == number).any())]
    renumbered = np.zeros(len(specs), dtype=np.int64)
    renumbered[used] = np.arange(len(used))
    narrow = np.min_scalar_type(len(used) - 1)  # usually one byte per device
    return TierPlan(tuple(specs[number] for number in used), renumbered.astype(narrow)[tier_of])
