"""Where hosts and adversaries run: in this process, or in Ray actors (``on_ray``)."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Self, TypeVar

import numpy as np
from flwr.app import Message
from numpy.typing import NDArray

from clients.deployed import DeployedFrontEnd
from clients.device_spec import DeviceSpec
from testbed.core.process import trim_malloc
from testbed.core.threads import available_cores, torch_threads
from testbed.engine.hosts.broadcast import Broadcast
from testbed.engine.hosts.host import (
    AppBuilder,
    Delivery,
    Host,
    HostData,
    SameDelivery,
    Usage,
    edge_app,
    process_usage,
)
from testbed.engine.hosts.queries import QueryAccess, QueryService

T = TypeVar("T")
MOST_HOSTS = 64  # by default; a scenario may ask for more
_INLINE_QUERIES = QueryService()


def _ask_inline(ticket: int, images: NDArray[np.float32], draw: int) -> NDArray[np.float32]:
    return _INLINE_QUERIES.query(ticket, images, draw)


def default_hosts() -> int:
    """Return the number of hosts of a run that names none: one per core."""
    return min(available_cores(), MOST_HOSTS)


Job = tuple[str, Callable[..., T], tuple[Any, ...]]
"""Name, function and arguments of one job."""


class Backend(ABC):
    """Runs shards of devices on hosts, and independent jobs in other processes.

    The number of hosts changes only the wall time.
    """

    name: str
    hosts: int

    @property
    def restarts(self) -> int:
        """Return the number of hosts that died and were replaced."""
        return 0

    @property
    def job_restarts(self) -> int:
        """Return the number of adversary processes that died and were replaced."""
        return 0

    def install(self, device_specs: Sequence[DeviceSpec]) -> None:
        """Install an arm on every host, with one front-end per tier."""
        self.install_app(edge_app(device_specs))

    @abstractmethod
    def install_app(self, build: AppBuilder) -> None:
        """Install any ClientApp on every host."""

    @abstractmethod
    def handle(self, shards: Sequence[tuple[int, list[Message]]]) -> list[list[Delivery]]:
        """Run (host, messages) shards and return their deliveries in the same order.

        Raises
        ------
        HostError : a host process died.
        """

    @abstractmethod
    def broadcast(self, broadcast: Broadcast) -> list[SameDelivery] | None:
        """Deliver one message to all devices; None: it must go device by device (``Host``)."""

    @abstractmethod
    def prepare_jobs(self) -> None:
        """Begin to start a process for jobs to come, so that the first of them need not wait."""

    @abstractmethod
    def run_jobs(
        self,
        jobs: Sequence[Job[T]],
        on_done: Callable[[str], None] = lambda name: None,
        accesses: Sequence[QueryAccess | None] = (),
    ) -> list[T]:
        """Run independent jobs, each in one thread, several at once if possible.

        Parameters
        ----------
        on_done : called with a job's name when it is done.
        accesses : each job's query access, if any; its budget is restored if the job is repeated.

        Raises
        ------
        HostError : a job failed, or its process died repeatedly.
        """

    @abstractmethod
    def open_queries(
        self, deployed: DeployedFrontEnd, adversary: str, limit: int | None
    ) -> QueryAccess:
        """Serve a front-end's queries to one adversary, for at most ``limit`` images."""

    @abstractmethod
    def close_queries(self, access: QueryAccess) -> None:
        """Stop serving them."""

    def free_memory(self) -> None:
        """Return the free memory of this process and of the hosts to the operating system."""
        trim_malloc()

    @abstractmethod
    def usage(self) -> dict[str, Usage]:
        """Return the cost of each process."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Stop every process that this backend started."""


class InlineBackend(Backend):
    """One host in this process: slower, but easy to debug."""

    name = "inline"
    hosts = 1

    def __init__(self, data: HostData) -> None:
        self._host = Host(data)

    def install_app(self, build: AppBuilder) -> None:
        """Install a ClientApp."""
        self._host.install_app(build)

    def handle(self, shards: Sequence[tuple[int, list[Message]]]) -> list[list[Delivery]]:
        """Run the shards one after another."""
        return [self._host.handle(messages) for _, messages in shards]

    def broadcast(self, broadcast: Broadcast) -> list[SameDelivery] | None:
        """Deliver one message to all devices."""
        return self._host.broadcast(broadcast)

    def prepare_jobs(self) -> None:
        """Do nothing: jobs run in this process."""

    def run_jobs(
        self,
        jobs: Sequence[Job[T]],
        on_done: Callable[[str], None] = lambda name: None,
        accesses: Sequence[QueryAccess | None] = (),
    ) -> list[T]:
        """Run the jobs one after another."""
        results = []
        with torch_threads(1):
            for name, function, arguments in jobs:
                results.append(function(*arguments))
                on_done(name)
        return results

    def open_queries(
        self, deployed: DeployedFrontEnd, adversary: str, limit: int | None
    ) -> QueryAccess:
        """Serve a front-end's queries from this process."""
        return QueryAccess(_INLINE_QUERIES.open(deployed, adversary, limit), _ask_inline)

    def close_queries(self, access: QueryAccess) -> None:
        """Stop serving them."""
        _INLINE_QUERIES.close(access.ticket)

    def usage(self) -> dict[str, Usage]:
        """Return the cost of this process."""
        return {"driver": process_usage()}

    def close(self) -> None:
        """Do nothing: there is no other process."""
