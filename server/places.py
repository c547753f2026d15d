"""Which tier's front-end each device of a cohort trains: every tier gets places by its share."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from testbed.core.seeds import generator

GOLDEN_RATIO = 0.6180339887498949
"""Its multiples cover the unit interval evenly, however many there are (Weyl's sequence)."""
ROUNDING = 1e-9


class TrainingPlaces:
    """The chance of each device that it trains another tier's front-end instead of its own.

    A tier's places in the cohorts are proportional to its devices, as its weight is in training at
    the provider. Where some of its devices cannot train (a microcontroller holds no gradients),
    devices of tiers with places to spare take over as many as are missing.

    Parameters
    ----------
    eligible : nodes from which cohorts are drawn, each equally often.
    tier_of : the tier of every node of the fleet, 0 for nodes that are not listed.
    tiers : number of tiers.
    can_train : (node, tier) -> whether the tier's front-end fits the node's memory in training.

    Attributes
    ----------
    untrained : tiers that have devices, none of which can train, nor can any other device.
    """

    def __init__(
        self,
        eligible: NDArray[np.int64],
        tier_of: Mapping[int, int],
        tiers: int,
        can_train: Callable[[int, int], bool],
        seed: int,
    ) -> None:
        self._seed = seed
        self.untrained: list[int] = []
        self._chances: NDArray[np.float64] | None = None
        if tiers == 1:
            return
        self._nodes = np.sort(np.asarray(eligible))
        nodes = self._nodes.tolist()
        self._own = np.array([tier_of.get(node, 0) for node in nodes], dtype=np.int64)
        devices = Counter(tier_of.values()) if tier_of else Counter(self._own.tolist())
        counts = np.array([devices[tier] for tier in range(tiers)], dtype=np.float64)
        wanted = counts / counts.sum()
        offered = np.bincount(self._own, minlength=tiers) / len(self._own)
        missing = wanted - offered
        # Each device gives up the same share of its places as the others of its tier.
        spare = np.maximum(-missing, 0.0)[self._own] / offered[self._own]
        chances = np.zeros((len(self._own), tiers))
        for tier in np.flatnonzero(missing > ROUNDING).tolist():
            fits = np.array([can_train(node, tier) for node in nodes])
            others = fits & (self._own != tier)
            weights = np.where(others, spare, 0.0) if spare[others].any() else others.astype(float)
            if weights.any():
                places = missing[tier] * len(self._own)
                chances[:, tier] = places * weights / weights.sum()
            elif not offered[tier]:
                self.untrained.append(tier)
        # A device cannot give more places than it has.
        self._chances = chances / np.maximum(chances.sum(axis=1), 1.0)[:, None]

    def of(self, cohort: Sequence[int], server_round: int) -> dict[int, int]:
        """Return the tier whose front-end each node of a cohort trains.

        The nodes' draws are spread evenly over the unit interval, within a round and over the
        rounds, so that a few rounds already come close to the shares.
        """
        if self._chances is None:
            return dict.fromkeys(cohort, 0)
        order = generator(self._seed, "training places", server_round).permutation(len(cohort))
        offset = (server_round * GOLDEN_RATIO) % 1.0
        draws = (order + offset) / len(cohort)
        trained = {}
        for node, draw in zip(cohort, draws, strict=True):
            place = int(np.searchsorted(self._nodes, node))
            given = np.cumsum(self._chances[place])
            tier = int(np.searchsorted(given, draw, side="right"))
            trained[node] = tier if tier < len(given) else int(self._own[place])
        return trained
