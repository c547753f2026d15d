"""Hosts and adversaries as Ray actors, bound to loopback, with nothing phoning home."""

import contextlib
import gc
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import ray
from flwr.app import Message
from numpy.typing import NDArray

from clients.deployed import DeployedFrontEnd
from testbed.core.errors import HostError
from testbed.core.process import freeze_gc
from testbed.data.device_rows import DeviceRows
from testbed.engine.hosts.backend import MOST_HOSTS, Backend, Job, default_hosts
from testbed.engine.hosts.host import AppBuilder, Delivery, Usage, process_usage
from testbed.engine.hosts.on_ray.actors import AskActor, QueryActor
from testbed.engine.hosts.on_ray.cluster import Cluster, LocalCluster, said
from testbed.engine.hosts.on_ray.external_cluster import ExternalCluster
from testbed.engine.hosts.on_ray.hosts import DEATHS, RayHosts, fetch
from testbed.engine.hosts.on_ray.jobs import RayJobs
from testbed.engine.hosts.queries import QueryAccess

T = TypeVar("T")


class RayBackend(Backend):
    """One host actor per core by default, each simulating many devices.

    Parameters
    ----------
    hosts : number of host actors; None: one per core of this machine, or of the cluster.
    address : of a Ray cluster to join, instead of starting one here for this run alone.

    Raises
    ------
    UserError : Ray cannot start here, or the cluster cannot be joined.
    HostError : the cluster gave no room to the hosts.
    """

    name = "ray"

    def __init__(
        self,
        hosts: int | None,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        device_rows: Sequence[NDArray[np.int64]],
        address: str | None = None,
    ) -> None:
        self._query_actor: Any = None
        self._hosts: RayHosts | None = None
        self._jobs: RayJobs | None = None
        self._cluster, self.hosts = _cluster(hosts, address)
        try:
            known = isinstance(device_rows, DeviceRows)
            rows = device_rows if known else DeviceRows(device_rows)
            shared = (ray.put(images), ray.put(labels), ray.put(rows))
            self._hosts = RayHosts(self._cluster, self.hosts, shared)
            self._jobs = RayJobs(self._cluster, self.hosts)
            self._hosts.wait_for_room(range(self.hosts))
            freeze_gc()
        except BaseException:
            self.close()
            raise

    @property
    def _alive(self) -> RayHosts:
        assert self._hosts is not None
        return self._hosts

    def install_app(self, build: AppBuilder) -> None:
        """Install a ClientApp on every host."""
        self._alive.install_app(build)

    def handle(self, shards: Sequence[tuple[int, list[Message]]]) -> list[list[Delivery]]:
        """Run all shards at once, each on its host."""
        return self._alive.handle(shards)

    def _answer(self, reference: Any, what: str) -> Any:
        """Wait for one call to an actor whose process is not replaced."""
        self._cluster.wait([reference], what)
        try:
            return fetch(reference, what)
        except DEATHS as error:
            reason = said(error)
            raise HostError(f"{what}: a process died ({reason}); continue with --resume") from None

    def run_jobs(
        self,
        jobs: Sequence[Job[T]],
        on_done: Callable[[str], None] = lambda name: None,
        accesses: Sequence[QueryAccess | None] = (),
    ) -> list[T]:
        """Run the jobs on as many adversary actors as there are hosts."""
        assert self._jobs is not None

        def renew(index: int) -> None:
            access = accesses[index] if accesses else None
            if access is not None:
                self._answer(self._query_actor.renew.remote(access.ticket), "queries")

        return self._jobs.run(jobs, on_done, renew)

    def open_queries(
        self, deployed: DeployedFrontEnd, adversary: str, limit: int | None
    ) -> QueryAccess:
        """Serve a front-end's queries from an actor of its own, the same for all adversaries."""
        if self._query_actor is None:
            self._query_actor = QueryActor.remote()
        opening = self._query_actor.open.remote(deployed, adversary, limit)
        return QueryAccess(self._answer(opening, "queries"), AskActor(self._query_actor))

    def close_queries(self, access: QueryAccess) -> None:
        """Serve them no longer."""
        self._answer(self._query_actor.close.remote(access.ticket), "queries")

    def usage(self) -> dict[str, Usage]:
        """Return the cost of the driver, the hosts and the adversaries."""
        usages = {f"host {index}": usage for index, usage in enumerate(self._alive.usage())}
        jobs = self._jobs.actors if self._jobs else []
        named = [(f"adversary {index}", actor) for index, actor in enumerate(jobs)]
        if self._query_actor is not None:
            named.append(("queries", self._query_actor))
        calls = [(name, actor.usage.remote()) for name, actor in named]
        usages |= {name: self._answer(reference, name) for name, reference in calls}
        return {"driver": process_usage()} | usages

    @property
    def restarts(self) -> int:
        """Return how many hosts died and were replaced so far."""
        return self._alive.restarts

    @property
    def job_restarts(self) -> int:
        """Return how many adversary processes died and were replaced so far."""
        return self._jobs.restarts if self._jobs else 0

    def close(self) -> None:
        """Stop Ray, or leave the cluster that was joined, and leave nothing behind."""
        gc.unfreeze()
        if self._cluster.foreign and ray.is_initialized():
            hosts = self._hosts.actors if self._hosts else []
            jobs = self._jobs.actors if self._jobs else []
            queries = [] if self._query_actor is None else [self._query_actor]
            for actor in [*hosts, *jobs, *queries]:
                with contextlib.suppress(ray.exceptions.RayError, ConnectionError):
                    ray.kill(actor)  # a cluster that is gone must not hide why the run ends
        self._cluster.close()


def _cluster(hosts: int | None, address: str | None) -> tuple[Cluster, int]:
    """Start or join Ray; return it with the number of hosts."""
    if address is None:
        count = hosts or default_hosts()
        return LocalCluster(count), count
    joined = ExternalCluster(address)
    count = hosts or min(joined.cpus(), MOST_HOSTS)
    try:
        joined.check_hosts(count)
    except BaseException:
        joined.close()
        raise
    return joined, count
