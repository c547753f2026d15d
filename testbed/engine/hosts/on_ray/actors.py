"""Ray actors of a run: hosts, adversaries, and the service that answers queries."""

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from testbed.core.process import freeze_gc, trim_malloc, tune_malloc, without_collections

with without_collections():  # the first import of an actor's process
    import numpy as np
    import ray
    import torch
    from flwr.app import Message, RecordDict
    from numpy.typing import NDArray

    from testbed.core.compute import computing_on
    from testbed.core.plain_torch import plain_optimisers
    from testbed.engine.hosts.broadcast import Broadcast
    from testbed.engine.hosts.held_replies import HeldReplies, Records, Shard, ShardReplies
    from testbed.engine.hosts.host import (
        Host,
        HostData,
        SameDelivery,
        Usage,
        process_usage,
    )
    from testbed.engine.hosts.on_ray.cluster import CALL_TIMEOUT_S
    from testbed.engine.hosts.on_ray.shared_payloads import Packed, packed, unpacked
    from testbed.engine.hosts.on_ray.stopped import StoppedProcesses
    from testbed.engine.hosts.queries import QueryService
    from testbed.wire.sums import Sums

T = TypeVar("T")
NO_DATA = (np.empty((0, 1, 1, 1), np.uint8), np.empty(0, np.int64), ())


class _Process:
    """An actor: in one thread, since there is one process per core; it keeps freed memory.

    It computes on the GPU that it has reserved a part of, if any.
    """

    def __init__(self, *arguments: Any) -> None:
        torch.set_num_threads(1)
        tune_malloc()
        plain_optimisers()
        context: Any = ray.get_runtime_context()
        share = context.get_assigned_resources().get("GPU", 0.0)
        if share:
            self._computing = computing_on(torch.device("cuda"), share)
            self._computing.__enter__()  # as long as the process lives
        super().__init__(*arguments)

    def usage(self) -> Usage:
        return process_usage()

    def free_memory(self) -> None:
        trim_malloc()

    def place(self) -> tuple[str, int]:
        """Return the node, and the process on it."""
        return ray.get_runtime_context().get_node_id(), os.getpid()


class _HostActor(_Process, Host):
    """A host as a Ray actor; its process starts before the data are there."""

    def __init__(self) -> None:
        super().__init__(HostData(*NO_DATA))
        self._held = HeldReplies()

    def load(self, *data: Any) -> None:
        self.hold(HostData(*data))
        freeze_gc()

    def carry(
        self, payload: Packed, exchange: int, live: Sequence[int], *shared: RecordDict
    ) -> Packed:
        self._held.keep_only(live)
        messages: list[Message] = unpacked(payload).unpack(shared)
        deliveries = self.handle(messages)
        replies = ShardReplies(len(messages))
        for message, delivery in zip(messages, deliveries, strict=True):
            replies.keep(message, delivery.reply)
        self._held.keep(exchange, replies.kept)
        return packed((deliveries, replies.made()))

    def tell(
        self,
        message_type: str,
        shard_size: int,
        place: tuple[int, int],
        content_of: NDArray[np.int16],
        *contents: RecordDict,
    ) -> list[SameDelivery] | None:
        return self.broadcast(Broadcast(message_type, contents, content_of, shard_size), *place)

    def repeat(
        self, payload: Packed, exchange: int, live: Sequence[int], *shared: RecordDict
    ) -> None:
        self.carry(payload, exchange, live, *shared)

    def add_up(self, exchange: int, shards: Sequence[Shard]) -> list[Sums]:
        return self._held.add_up(exchange, shards)

    def take(self, exchange: int) -> dict[str, Records]:
        return self._held.take(exchange)


class _JobActor(_Process):
    """A process that runs adversaries' jobs one after another."""

    def run(self, function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        return function(*arguments)


class _QueryActor(_Process, QueryService):
    """A process that holds front-ends and answers adversaries' queries."""


class _Observer:
    """Ends stopped processes of a run on another node."""

    def __init__(self) -> None:
        self._stopped = StoppedProcesses()

    def end(self, pids: list[int]) -> list[int]:
        return self._stopped.end(self._stopped.with_pids(pids))


class AskActor:
    """Sends queries to the actor; an adversary gets this and a ticket, but no weights."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def __call__(self, ticket: int, images: NDArray[np.float32], draw: int) -> NDArray[np.float32]:
        """Ask the service."""
        try:
            answer: NDArray[np.float32] = ray.get(
                self._actor.query.remote(ticket, images, draw), timeout=CALL_TIMEOUT_S
            )
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        return answer


HostActor = ray.remote(num_cpus=0)(_HostActor)
JobActor = ray.remote(num_cpus=0)(_JobActor)
QueryActor = ray.remote(num_cpus=0)(_QueryActor)
ObserverActor = ray.remote(num_cpus=0)(_Observer)
