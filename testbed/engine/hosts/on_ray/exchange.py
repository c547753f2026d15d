"""The driver's view of the arrays that hosts keep of one exchange's replies."""

from collections.abc import Callable, Sequence
from typing import Any

from flwr.app import ArrayRecord

from testbed.engine.hosts.held_replies import Records, Shard
from testbed.engine.hosts.host import Delivery
from testbed.wire.held import held
from testbed.wire.sums import Sums

SHARDS_AT_ONCE = 8
"""Shards of one call: their sums are in memory twice while they travel."""

Call = tuple[int, str, Callable[[Any], Any]]
"""Host, purpose, and how the call is made on an actor."""


class Exchange:
    """Reaches the arrays of an exchange's replies on their hosts.

    The hosts keep them as long as this object lives, or until they are added up or read.

    Parameters
    ----------
    number : of the exchange.
    call : makes calls to hosts and returns their results; dead hosts are replaced.
    forget : called with the number when all arrays have been added up.
    """

    def __init__(
        self,
        number: int,
        call: Callable[[Sequence[Call]], list[Any]],
        forget: Callable[[int], None],
    ) -> None:
        self.number = number
        self._call = call
        self._forget = forget
        self._host_of: dict[str, int] = {}
        self._made: dict[str, tuple[Shard, Sums]] = {}
        self._read: dict[str, Records] | None = None

    def claim(
        self, host: int, deliveries: Sequence[Delivery], made: Sequence[tuple[Shard, Sums]]
    ) -> None:
        """Let the held arrays of these replies refer to this exchange.

        Parameters
        ----------
        made : sums over all sound replies, which serve where all of them are accepted.
        """
        self._made |= {keys[0]: ((keys, weights), sums) for (keys, weights), sums in made}
        for delivery in deliveries:
            if not delivery.reply.has_content():
                continue
            for record in delivery.reply.content.values():
                arrays = held(record) if isinstance(record, ArrayRecord) else None
                if arrays is not None:
                    arrays.holder = self
                    self._host_of[arrays.key] = host

    def read(self, key: str) -> Records:
        """Return the records of one reply; the first call brings those of all replies."""
        if self._read is None:
            number, hosts = self.number, sorted(set(self._host_of.values()))
            parts = self._call(
                [(host, "reading", lambda actor: actor.take.remote(number)) for host in hosts]
            )
            self._read = {key: records for part in parts for key, records in part.items()}
        return self._read[key]

    def add_up(self, shards: Sequence[Shard]) -> list[Sums] | None:
        """Return the sums of each shard, which its host has made or makes now."""
        hosts = [{self._host_of[key] for key in keys} for keys, _ in shards]
        if self._read is not None or any(len(of_shard) > 1 for of_shard in hosts):
            return None
        sums: dict[int, Sums] = {}
        places: dict[int, list[int]] = {}
        for place, (host,) in enumerate(hosts):
            made = self._made.pop(shards[place][0][0], None)
            if made is not None and made[0] == shards[place]:
                sums[place] = made[1]
            else:
                places.setdefault(host, []).append(place)
        parts = [
            (host, of_host[start : start + SHARDS_AT_ONCE])
            for host, of_host in places.items()
            for start in range(0, len(of_host), SHARDS_AT_ONCE)
        ]
        results = self._call(
            [(host, "adding up", self._adding([shards[p] for p in part])) for host, part in parts]
        )
        for (_, part), result in zip(parts, results, strict=True):
            sums |= dict(zip(part, result, strict=True))
        for keys, _ in shards:
            for key in keys:
                del self._host_of[key]
        if not self._host_of:
            self._forget(self.number)
        return [sums[place] for place in range(len(shards))]

    def _adding(self, shards: list[Shard]) -> Callable[[Any], Any]:
        return lambda actor: actor.add_up.remote(self.number, shards)
