"""Random streams keyed by (seed, purpose, ids), so that no draw depends on the order of another.

Every stream is a child of the scenario's seed through ``numpy.random.SeedSequence`` spawn keys;
the purpose is hashed, so adding a new purpose never shifts an existing stream.
"""

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


@lru_cache(maxsize=4096)
def key(purpose: str) -> int:
    """Return the spawn key that a text stands for."""
    return int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:4], "big")


def _sequence(seed: int, purpose: str, ids: tuple[int, ...]) -> np.random.SeedSequence:
    return np.random.SeedSequence(seed, spawn_key=(key(purpose), *ids))


def generator(seed: int, purpose: str, *ids: int) -> np.random.Generator:
    """Return the numpy generator of ``purpose`` (for instance of one device and one round)."""
    return np.random.Generator(np.random.PCG64(_sequence(seed, purpose, ids)))


def torch_generator(seed: int, purpose: str, *ids: int) -> "torch.Generator":
    """Return a CPU ``torch.Generator`` seeded from the same keyed tree."""
    import torch  # here, so that readers of results, which draw with numpy alone, start quickly

    state = _sequence(seed, purpose, ids).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) & 0x7FFF_FFFF_FFFF_FFFF)
