"""Random streams keyed by (seed, purpose, ids), so that no draw depends on the order of another.

Every stream is a child of the scenario's seed through ``numpy.random.SeedSequence`` spawn keys;
the purpose is hashed, so adding a new purpose never shifts an existing stream.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from testbed.core.errors import UserError

if TYPE_CHECKING:
    import torch

WORDS = 624  # of 32 bits, the state of the Mersenne Twister, which torch uses on the CPU
_ANY_SEED = 1
IDS_AT_ONCE = 1 << 16
MASK_128 = 2**128 - 1
PCG_MULTIPLIER = 0x2360ED051FC65DA44385DF649FCCF645
HASH_A, HASH_MULTIPLIER_A = 0x43B0D7E5, 0x931E8875  # of NumPy's SeedSequence
HASH_B, HASH_MULTIPLIER_B = 0x8B51F9DD, 0x58F38DED
MIX_LEFT, MIX_RIGHT = 0xCA01F9DD, 0x4973F715


@lru_cache(maxsize=4096)
def key(purpose: str) -> int:
    """Return the spawn key that a text stands for."""
    return int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:4], "big")


def _sequence(seed: int, purpose: str, ids: tuple[int, ...]) -> np.random.SeedSequence:
    return np.random.SeedSequence(seed, spawn_key=(key(purpose), *ids))


def generator(seed: int, purpose: str, *ids: int) -> np.random.Generator:
    """Return the numpy generator of ``purpose`` (for instance of one device and one round)."""
    return np.random.Generator(np.random.PCG64(_sequence(seed, purpose, ids)))


def generators(
    seed: int, purpose: str, ids: NDArray[np.int64], *more: int
) -> Iterator[np.random.Generator]:
    """Yield the generator of ``(purpose, id, *more)`` of each id, four times as fast as one by one.

    It is one object, set to each stream in turn: draw from it before the next one is asked for.
    The streams are those of ``generator``: the hash of ``SeedSequence`` and the seeding of
    ``PCG64``, which NumPy keeps stable, computed for many ids at once.

    Parameters
    ----------
    ids, more : from 0 to 2^32 - 1.
    """
    stream = np.random.PCG64(0)
    rng, fresh = np.random.Generator(stream), stream.state
    for start in range(0, len(ids), IDS_AT_ONCE):
        for words in _seed_words(seed, purpose, ids[start : start + IDS_AT_ONCE], more).tolist():
            increment = ((words[2] << 64 | words[3]) << 1 | 1) & MASK_128
            state = (increment + (words[0] << 64 | words[1])) * PCG_MULTIPLIER + increment
            fresh["state"] = {"state": state & MASK_128, "inc": increment}
            stream.state = fresh
            yield rng


def _seed_words(
    seed: int, purpose: str, ids: NDArray[np.int64], more: tuple[int, ...]
) -> NDArray[np.uint64]:
    """Return ``SeedSequence(...).generate_state(4, np.uint64)`` of each id (N, 4)."""
    last = [ids, *(np.array([number]) for number in more)]
    if any(len(words) and not 0 <= words.min() <= words.max() < 2**32 for words in last):
        raise ValueError("an id is one word of 32 bits")
    before = np.random.SeedSequence(seed, spawn_key=(key(purpose),))
    hashed = 4 * max(4, -(-seed.bit_length() // 32)) + 4  # words of the pool, hashed so far
    constant = HASH_A * pow(HASH_MULTIPLIER_A, hashed, 2**32) % 2**32
    pool = list(before.pool[:, None])
    for words in last:
        for place in range(len(pool)):
            constant, mixed = _hashed(words.astype(np.uint32), constant, HASH_MULTIPLIER_A)
            both = np.uint32(MIX_LEFT) * pool[place] - np.uint32(MIX_RIGHT) * mixed
            pool[place] = both ^ both >> np.uint32(16)
    constant = HASH_B
    state = np.empty((len(ids), 8), dtype="<u4")
    for place in range(8):
        constant, state[:, place] = _hashed(pool[place % 4], constant, HASH_MULTIPLIER_B)
    return state.view("<u8")


def _hashed(
    values: NDArray[np.uint32], constant: int, multiplier: int
) -> tuple[int, NDArray[np.uint32]]:
    """Return the next constant of the hash, and the hashed words."""
    following = constant * multiplier % 2**32
    product = (values ^ np.uint32(constant)) * np.uint32(following)
    return following, product ^ product >> np.uint32(16)


def child(seed: int, purpose: str, *ids: int) -> int:
    """Return a seed for a part of the program that must not know ``seed``."""
    return int(generator(seed, purpose, *ids).integers(2**63))


def torch_generator(seed: int, purpose: str, *ids: int) -> "torch.Generator":
    """Return a CPU ``torch.Generator`` seeded from the same keyed tree.

    ``Generator.manual_seed`` uses 32 bits of a seed on the CPU, so that two streams of 77,000 are
    equal with a probability of one half. Here all words of the state are drawn.
    """
    import torch  # here, so that readers of results, which draw with numpy alone, start quickly

    fresh, first = _fresh_state()
    state = fresh.copy()
    words = np.random.PCG64(_sequence(seed, purpose, ids)).random_raw(WORDS // 2).view(np.uint32)
    state[first : first + 8 * WORDS].view(np.uint64)[:] = words
    stream = torch.Generator()
    stream.set_state(torch.from_numpy(state))
    return stream


@cache
def _fresh_state() -> tuple[NDArray[np.uint8], int]:
    """Return the bytes of a new CPU generator's state, and where its words begin."""
    import torch

    state: NDArray[np.uint8] = torch.Generator().manual_seed(_ANY_SEED).get_state().numpy()
    return state, place_of_words(state.tobytes())


def place_of_words(state: bytes) -> int:
    """Return where the words of a torch generator seeded with ``_ANY_SEED`` begin; 8 bytes each.

    PyTorch does not document the layout: the words are searched, as NumPy has them for this seed.
    """
    same = np.random.MT19937()
    same._legacy_seeding(_ANY_SEED)
    first = state.find(same.state["state"]["key"].astype(np.uint64).tobytes())
    if first < 0 or first % 8:
        raise UserError(
            "the installed version of torch keeps the state of its random generator in another "
            "form than this project can set; install the version that constraints.txt names"
        )
    return first


@contextmanager
def global_stream(stream: "torch.Generator") -> Iterator[None]:
    """Let initial weights and dropout, which draw from PyTorch's global state, draw from a stream.

    Both draw on the CPU, whatever the device (``testbed.core.layers.Dropout``).
    """
    import torch

    with torch.random.fork_rng(devices=()):
        torch.default_generator.set_state(stream.get_state())
        yield
