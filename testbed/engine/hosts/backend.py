"""Where hosts and adversaries run: in this process, or in Ray actors (``ray_backend``)."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Self, TypeVar

import numpy as np
import torch
from flwr.app import Message
from numpy.typing import NDArray

from clients.deployed import DeployedFrontEnd
from clients.device_spec import DeviceSpec
from testbed.engine.hosts.host import AppBuilder, Delivery, Host, Usage, edge_app, process_usage
from testbed.engine.hosts.queries import QueryAccess, QueryService

T = TypeVar("T")
MOST_HOSTS = 64  # unless a scenario asks for more
_INLINE_QUERIES = QueryService()


def _ask_inline(ticket: int, images: NDArray[np.float32], draw: int) -> NDArray[np.float32]:
    return _INLINE_QUERIES.query(ticket, images, draw)


def default_hosts() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return min(len(os.sched_getaffinity(0)), MOST_HOSTS)
    return min(os.cpu_count() or 1, MOST_HOSTS)


Job = tuple[str, Callable[..., T], tuple[Any, ...]]
"""Name, function and arguments of one job."""


class Backend(ABC):
    """Runs shards of devices on hosts, and independent jobs in processes of their own.

    The number of hosts changes the wall time and nothing else.
    """

    name: str
    hosts: int

    @property
    def restarts(self) -> int:
        """Return how many hosts died and were replaced so far."""
        return 0

    @property
    def job_restarts(self) -> int:
        """Return how many adversary processes died and were replaced so far."""
        return 0

    def install(self, device_specs: Sequence[DeviceSpec]) -> None:
        """Install an arm's programs, one per tier of the fleet, on every host."""
        self.install_app(edge_app(device_specs))

    @abstractmethod
    def install_app(self, build: AppBuilder) -> None:
        """Install any ClientApp on every host."""

    @abstractmethod
    def handle(self, shards: Sequence[tuple[int, list[Message]]]) -> list[list[Delivery]]:
        """Run (host, messages) shards, and return their deliveries in the order given.

        Raises
        ------
        HostError : a host process died.
        """

    @abstractmethod
    def run_jobs(
        self,
        jobs: Sequence[Job[T]],
        on_done: Callable[[str], None] = lambda name: None,
        accesses: Sequence[QueryAccess | None] = (),
    ) -> list[T]:
        """Run independent jobs, each in one thread, several at once where possible.

        Parameters
        ----------
        on_done : called with a job's name when it is done; results come in the jobs' order.
        accesses : by job, what it asks a service with, and gets back whole if it starts over.

        Raises
        ------
        HostError : a job failed, or its process died again and again.
        """

    @abstractmethod
    def open_queries(
        self, deployed: DeployedFrontEnd, adversary: str, limit: int | None
    ) -> QueryAccess:
        """Serve a front-end's queries to one adversary, at most ``limit`` images of them."""

    @abstractmethod
    def close_queries(self, access: QueryAccess) -> None:
        """Serve them no longer."""

    @abstractmethod
    def usage(self) -> dict[str, Usage]:
        """Return what each process has cost."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Stop every process that this backend started."""


class InlineBackend(Backend):
    """One host in this process: slower, and readable in a debugger."""

    name = "inline"
    hosts = 1

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        device_rows: Sequence[NDArray[np.int64]],
    ) -> None:
        self._host = Host(images, labels, device_rows)

    def install_app(self, build: AppBuilder) -> None:
        """Install a ClientApp."""
        self._host.install_app(build)

    def handle(self, shards: Sequence[tuple[int, list[Message]]]) -> list[list[Delivery]]:
        """Run the shards one after another."""
        return [self._host.handle(messages) for _, messages in shards]

    def run_jobs(
        self,
        jobs: Sequence[Job[T]],
        on_done: Callable[[str], None] = lambda name: None,
        accesses: Sequence[QueryAccess | None] = (),
    ) -> list[T]:
        """Run the jobs one after another, in one thread like everywhere."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            results = []
            for name, function, arguments in jobs:
                results.append(function(*arguments))
                on_done(name)
            return results
        finally:
            torch.set_num_threads(threads)

    def open_queries(
        self, deployed: DeployedFrontEnd, adversary: str, limit: int | None
    ) -> QueryAccess:
        """Serve a front-end's queries from a table of this process."""
        return QueryAccess(_INLINE_QUERIES.open(deployed, adversary, limit), _ask_inline)

    def close_queries(self, access: QueryAccess) -> None:
        """Serve them no longer."""
        _INLINE_QUERIES.close(access.ticket)

    def usage(self) -> dict[str, Usage]:
        """Return the cost of this process."""
        return {"driver": process_usage()}

    def close(self) -> None:
        """Stop nothing: there is no other process."""
