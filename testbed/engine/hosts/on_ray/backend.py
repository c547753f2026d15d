"""The Ray backend: hosts and adversaries as actors, on loopback and without telemetry."""

import contextlib
import gc
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import ray
from flwr.app import Message

from clients.deployed import DeployedFrontEnd
from testbed.core.errors import HostError
from testbed.core.process import freeze_gc
from testbed.data.device_rows import DeviceRows, ImagesOfDevices
from testbed.engine.hosts.backend import MOST_HOSTS, Backend, Job, default_hosts
from testbed.engine.hosts.broadcast import Broadcast
from testbed.engine.hosts.host import (
    AppBuilder,
    Delivery,
    HostData,
    SameDelivery,
    Usage,
    process_usage,
)
from testbed.engine.hosts.on_ray.actors import AskActor, QueryActor
from testbed.engine.hosts.on_ray.cluster import Cluster, LocalCluster, first_line
from testbed.engine.hosts.on_ray.external_cluster import ExternalCluster
from testbed.engine.hosts.on_ray.hosts import DEATHS, RayHosts, fetch
from testbed.engine.hosts.on_ray.jobs import RayJobs
from testbed.engine.hosts.queries import QueryAccess

T = TypeVar("T")


class RayBackend(Backend):
    """Host actors, by default one per core; each simulates many devices.

    Parameters
    ----------
    hosts : number of host actors; None: one per core of this machine, or of the cluster.
    data : None: ``load`` gives them the data later, while their processes start.
    address : Ray cluster to join; None starts Ray on this machine for this run.

    Raises
    ------
    UserError : Ray cannot start here, or the cluster cannot be joined.
    HostError : the cluster has no free CPUs for the hosts.
    """

    name = "ray"

    def __init__(
        self, hosts: int | None, data: HostData | None = None, address: str | None = None
    ) -> None:
        self._query_actor: Any = None
        self._hosts: RayHosts | None = None
        self._jobs: RayJobs | None = None
        self._cluster, self.hosts = _cluster(hosts, address)
        try:
            self._cluster.share_gpus(2 * self.hosts + 1)  # hosts, adversaries, and the queries
            self._hosts = RayHosts(self._cluster, self.hosts)
            self._jobs = RayJobs(self._cluster, self.hosts)
            self._hosts.wait_for_room(range(self.hosts))
            if data is not None:
                self.load(data)
        except BaseException:
            self.close()
            raise

    def load(self, data: HostData) -> None:
        """Give all hosts the data."""
        rows = data.device_rows
        rows = rows if isinstance(rows, ImagesOfDevices) else DeviceRows(rows)
        self._alive.load([ray.put(part) for part in (data.images, data.labels, rows)])
        freeze_gc()

    @property
    def _alive(self) -> RayHosts:
        assert self._hosts is not None
        return self._hosts

    def install_app(self, build: AppBuilder) -> None:
        """Install a ClientApp on every host."""
        self._alive.install_app(build)

    def handle(self, shards: Sequence[tuple[int, list[Message]]]) -> list[list[Delivery]]:
        """Run all shards concurrently, each on its host."""
        return self._alive.handle(shards)

    def broadcast(self, broadcast: Broadcast) -> list[SameDelivery] | None:
        """Deliver one message to all devices, each host to its own."""
        return self._alive.broadcast(broadcast)

    def _answer(self, reference: Any, what: str) -> Any:
        """Return the result of one call to an actor that is not replaced if it dies."""
        self._cluster.wait([reference], what)
        try:
            return fetch(reference, what)
        except DEATHS as error:
            reason = first_line(error)
            raise HostError(f"{what}: a process died ({reason}); continue with --resume") from None

    def prepare_jobs(self) -> None:
        """Begin to start one adversary actor; the others start when there are jobs for them."""
        assert self._jobs is not None
        self._jobs.start(1)

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
        """Serve a front-end's queries from one actor that all adversaries share."""
        if self._query_actor is None:
            self._query_actor = QueryActor.options(num_gpus=self._cluster.gpu_share).remote()
            self._cluster.observe(self._query_actor)
        opening = self._query_actor.open.remote(deployed, adversary, limit)
        return QueryAccess(self._answer(opening, "queries"), AskActor(self._query_actor))

    def close_queries(self, access: QueryAccess) -> None:
        """Stop serving them."""
        self._answer(self._query_actor.close.remote(access.ticket), "queries")

    def free_memory(self) -> None:
        """Return the free memory of the driver and of the hosts to the operating system."""
        super().free_memory()
        self._alive.free_memory()

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
        """Return the number of hosts that died and were replaced."""
        return self._alive.restarts

    @property
    def job_restarts(self) -> int:
        """Return the number of adversary processes that died and were replaced."""
        return self._jobs.restarts if self._jobs else 0

    def close(self) -> None:
        """Stop Ray, or leave the joined cluster, with no actor left."""
        gc.unfreeze()
        if self._cluster.foreign and ray.is_initialized():
            hosts = self._hosts.actors if self._hosts else []
            jobs = self._jobs.actors if self._jobs else []
            queries = [] if self._query_actor is None else [self._query_actor]
            for actor in [*hosts, *jobs, *queries]:
                with contextlib.suppress(ray.exceptions.RayError, ConnectionError):
                    ray.kill(actor)  # a dead cluster must not hide why the run ends
        self._cluster.close()


def _cluster(hosts: int | None, address: str | None) -> tuple[Cluster, int]:
    """Start or join Ray; return it with the number of hosts."""
    if address is None:
        count = hosts or default_hosts()
        return LocalCluster(count), count
    cluster = ExternalCluster(address)
    count = hosts or min(cluster.cpus(), MOST_HOSTS)
    try:
        cluster.check_hosts(count)
    except BaseException:
        cluster.close()
        raise
    return cluster, count
