"""The host actors of a run; a killed one is replaced transparently.

A new process gets the programs, then everything that its predecessor's devices remember
(``testbed.engine.hosts.on_ray.replay_log``), then the shards whose replies are missing: the
results are the same bits. A host that dies again and again on the same shard stops the run instead.
"""

import logging
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from flwr.app import Message

from testbed.core.errors import HostError, UserError
from testbed.engine.hosts.broadcast import Broadcast
from testbed.engine.hosts.host import AppBuilder, Delivery, SameDelivery, Usage, device_of
from testbed.engine.hosts.on_ray.actors import HostActor
from testbed.engine.hosts.on_ray.cluster import GONE, Cluster, first_line, gone
from testbed.engine.hosts.on_ray.exchange import Call, Exchange
from testbed.engine.hosts.on_ray.replay_log import ReplayLog
from testbed.engine.hosts.on_ray.shared_payloads import pack, packed, shared_contents, unpacked

_LOG = logging.getLogger(__name__)
MOST_DEATHS = 3
ROOM_WITHIN_S = 180.0
READY_WITHIN_S = 10.0  # a ready reference can be fetched at once, unless its node died
DEATHS = (
    ray.exceptions.RayActorError,
    ray.exceptions.ObjectLostError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.GetTimeoutError,
)


def fetch(reference: Any, what: str) -> Any:
    """Return the result of a call that is ready.

    Raises
    ------
    UserError : the call raised one.
    HostError : the call failed otherwise; the traceback is in the log.
    """
    try:
        return ray.get(reference, timeout=READY_WITHIN_S)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, UserError):
            raise cause from None
        _LOG.error("%s failed: %s", what, error)
        raise HostError(f"{what} failed: {type(cause).__name__}: {cause}") from None
    except GONE as error:
        raise gone(what, error) from None


class RayHosts:
    """A fixed number of hosts; a dead one is replaced transparently.

    Attributes
    ----------
    restarts : how many hosts died and were replaced so far.
    """

    def __init__(self, cluster: Cluster, count: int) -> None:
        self._cluster = cluster
        self._shared: tuple[Any, ...] = ()
        self._build: AppBuilder | None = None
        self._replay_logs = [ReplayLog() for _ in range(count)]
        self._exchange = 0
        self._live: set[int] = set()  # exchanges whose arrays may still be read
        self.restarts = 0
        self.actors: list[Any] = [self._new_actor() for _ in range(count)]

    def _new_actor(self) -> Any:
        actor: Any = HostActor.options(
            scheduling_strategy=self._cluster.spread,
            num_cpus=self._cluster.host_cpus,
            num_gpus=self._cluster.gpu_share,
        ).remote()
        if self._shared:
            actor.load.remote(*self._shared)
        self._cluster.observe(actor)
        return actor

    def load(self, shared: Sequence[Any]) -> None:
        """Give every host references to the parts of ``HostData``, without waiting for it."""
        self._shared = tuple(shared)
        for actor in self.actors:
            actor.load.remote(*shared)

    def wait_for_room(self, hosts: Sequence[int]) -> None:
        """Wait until a cluster that others may use has started these hosts.

        Raises
        ------
        HostError : it had no free CPU for them.
        """
        if not self._cluster.foreign:
            return
        first = [self.actors[host].usage.remote() for host in hosts]
        try:
            self._cluster.wait(first, "the cluster", within_s=ROOM_WITHIN_S)
        except HostError as error:
            raise HostError(
                f"{error}: {len(self.actors)} hosts need as many free CPUs; lower engine.hosts, or "
                "add nodes and continue with --resume"
            ) from None

    def install_app(self, build: AppBuilder) -> None:
        """Install a ClientApp on every host; earlier state is gone."""
        self._build = build
        for replay_log in self._replay_logs:
            replay_log.clear()
        self._of_all("installing", lambda actor: actor.install_app.remote(build))

    def free_memory(self) -> None:
        """Let every host return its free memory to the operating system."""
        self._of_all("freeing memory", lambda actor: actor.free_memory.remote())

    def usage(self) -> list[Usage]:
        """Return the cost of each host's present process."""
        usages: list[Usage] = self._of_all("measuring", lambda actor: actor.usage.remote())
        return usages

    def _of_all(self, purpose: str, start: Callable[[Any], Any]) -> list[Any]:
        return self._results([_Call(host, purpose, start) for host in range(len(self.actors))])

    def handle(self, shards: Sequence[tuple[int, list[Message]]]) -> list[list[Delivery]]:
        """Run all shards at once, each on its host, and return their deliveries in order."""
        self._exchange += 1
        exchange = Exchange(self._exchange, self._call, self._live.discard)
        self._live.add(exchange.number)
        weakref.finalize(exchange, self._live.discard, exchange.number)
        stored = self._store([messages for _, messages in shards])
        results = self._results(
            [
                _Call(host, _devices(messages), *self._ways(messages, stored))
                for host, messages in shards
            ]
        )
        replies: list[list[Delivery]] = []
        for (host, messages), result in zip(shards, results, strict=True):
            self._replay_logs[host].note(messages)
            deliveries, made = unpacked(result)
            exchange.claim(host, deliveries, made)
            replies.append(deliveries)
        return replies

    def broadcast(self, broadcast: Broadcast) -> list[SameDelivery] | None:
        """Tell every host's devices at once; return the deliveries, or None as ``Host`` does."""
        tell = self._telling(broadcast)
        what = f"with {broadcast.message_type} of all devices"
        found = self._results(
            [_Call(host, what, tell(host), tell(host)) for host in range(len(self.actors))]
        )
        if None in found:
            return None
        for replay_log in self._replay_logs:
            replay_log.note_broadcast(broadcast)
        return [answer for of_host in found for answer in of_host]

    def _telling(self, broadcast: Broadcast) -> Callable[[int], Callable[[Any], Any]]:
        """Store a broadcast; return the function that returns the call of a host."""
        try:
            parts = [ray.put(part) for part in (broadcast.content_of, *broadcast.contents)]
        except GONE as error:
            raise gone("sending", error) from None
        given, hosts = (broadcast.message_type, broadcast.shard_size), len(self.actors)
        return lambda host: lambda actor: actor.tell.remote(*given, (host, hosts), *parts)

    def _call(self, calls: Sequence[Call]) -> list[Any]:
        """Make calls that read what hosts keep; they are made again on a host's replacement."""
        return self._results([_Call(host, purpose, start) for host, purpose, start in calls])

    def _ways(
        self, messages: Sequence[Message], stored: Mapping[int, Any]
    ) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
        """Return two calls that hand a shard to an actor: for its replies, and for its effect."""
        payload, keys = pack(messages, stored)
        given = (packed(payload), self._exchange, tuple(self._live), *(stored[key] for key in keys))
        return lambda actor: actor.carry.remote(*given), lambda actor: actor.repeat.remote(*given)

    @staticmethod
    def _store(shards: Sequence[Sequence[Message]]) -> dict[int, Any]:
        """Put contents that shards share into the object store, once for all hosts of a node."""
        shared = shared_contents(shards)
        try:
            return {key: ray.put(content) for key, content in shared.items()}
        except GONE as error:
            raise gone("sending", error) from None

    def _results(self, calls: Sequence["_Call"]) -> list[Any]:
        """Make the calls, repeat those that a dead host left undone, and return all results.

        Raises
        ------
        HostError : a host died ``MOST_DEATHS`` times in a row on the same call, or Ray is gone.
        """
        results: dict[int, Any] = {}
        deaths: Counter[int] = Counter()
        references = [call.start(self.actors[call.host]) for call in calls]
        while len(results) < len(calls):
            missing = {
                references[index]: index for index in range(len(calls)) if index not in results
            }
            lost: dict[int, tuple[int, str]] = {}
            # Fetch ready results while the others compute.
            for reference in self._cluster.wait(list(missing), "a host", count=1):
                index = missing[reference]
                try:
                    results[index] = fetch(reference, calls[index].title)
                except DEATHS:
                    host = calls[index].host
                    of_host = [i for i in missing.values() if calls[i].host == host]
                    lost |= self._dead(calls, references, of_host, results)
            for host, (first, reason) in lost.items():
                deaths[first] += 1
                if deaths[first] == MOST_DEATHS:
                    raise HostError(
                        f"host {host} died {MOST_DEATHS} times in a row, {calls[first].purpose} "
                        f"({reason}); continue with --resume"
                    )
                self._replace(host, reason)
                for index, call in enumerate(calls):
                    if call.host != host:
                        continue
                    if index not in results:
                        references[index] = call.start(self.actors[host])
                    elif call.repeat is not None:
                        call.repeat(self.actors[host])
        return [results[index] for index in range(len(calls))]

    @staticmethod
    def _dead(
        calls: Sequence["_Call"],
        references: Sequence[Any],
        missing: Sequence[int],
        results: dict[int, Any],
    ) -> dict[int, tuple[int, str]]:
        """Fetch what a dead host has finished; return the host, its next call and its death."""
        for index in missing:  # in the order in which it made them
            try:
                results[index] = fetch(references[index], calls[index].title)
            except DEATHS as error:
                return {calls[index].host: (index, first_line(error))}
        return {}

    def _replace(self, host: int, reason: str) -> None:
        """Replace a dead process by a new one, and replay its devices' state."""
        self.restarts += 1
        ray.kill(self.actors[host])  # it may be alive but unreachable
        self.actors[host] = self._new_actor()
        self.wait_for_room([host])
        replayed = self._replay_logs[host].shards()
        _LOG.warning(
            "host %d died (%s); a new process repeats %d shards", host, reason, len(replayed)
        )
        if self._build is not None:
            self.actors[host].install_app.remote(self._build)
        stored = self._store(replayed)
        for messages in replayed:
            self._ways(messages, stored)[1](self.actors[host])
        for broadcast in self._replay_logs[host].broadcasts:
            self._telling(broadcast)(host)(self.actors[host])


@dataclass(frozen=True)
class _Call:
    """A call to a host.

    Attributes
    ----------
    start : makes the call on an actor.
    repeat : makes it again for its effect on the devices only; None if it has none.
    """

    host: int
    purpose: str
    start: Callable[[Any], Any]
    repeat: Callable[[Any], Any] | None = None

    @property
    def title(self) -> str:
        """The host and the purpose of the call."""
        return f"host {self.host}, {self.purpose}"


def _devices(messages: Sequence[Message]) -> str:
    devices = sorted({device_of(message.metadata.dst_node_id) for message in messages})
    kind = messages[0].metadata.message_type
    return f"with {kind} of devices {devices[0]} to {devices[-1]}"
