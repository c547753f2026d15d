"""States as flat mappings from names to tensors: prefixes, and the moments of an optimiser."""

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def under(prefix: str, tensors: Mapping[str, T]) -> dict[str, T]:
    """Return the entries with ``prefix`` before their names."""
    return {f"{prefix}{name}": value for name, value in tensors.items()}


def below(prefix: str, tensors: Mapping[str, T]) -> dict[str, T]:
    """Return the entries whose names start with ``prefix``, named without it."""
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the moments by ``<parameter>.<name>``."""
    return {
        f"{index}.{name}": value
        for index, moments in optimiser.state_dict()["state"].items()
        for name, value in moments.items()
        if value is not None
    }


def load_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore what ``optimiser_tensors`` returned."""
    leaves = [leaf for group in optimiser.param_groups for leaf in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split(".")
        leaf = leaves[int(index)]
        if value.shape == leaf.shape:
            # Fused optimisers need the moments in the memory layout of the weights.
            value = torch.empty_like(leaf, requires_grad=False).copy_(value)
        moments.setdefault(int(index), {})[key] = value
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": moments, "param_groups": groups})
