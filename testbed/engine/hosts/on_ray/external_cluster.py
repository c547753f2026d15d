"""An external Ray cluster: a run joins it, and leaves it as it was."""

import contextlib
import importlib.metadata
import logging
import platform
import textwrap
import time
from typing import Any

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from testbed.core.errors import HostError, UserError
from testbed.core.project import VERSION, source_digest, source_files
from testbed.engine.hosts.on_ray.actors import ObserverActor
from testbed.engine.hosts.on_ray.address import answers, found_address
from testbed.engine.hosts.on_ray.cluster import GONE, Cluster, gone, quiet_ray
from testbed.engine.hosts.on_ray.stopped import StoppedProcesses
from testbed.engine.hosts.on_ray.watchdog import Watchdog

PROBED_WITHIN_S = 120.0  # a node's first worker imports torch
LIBRARIES = ("ray", "flwr", "torch", "numpy")


def versions() -> dict[str, str]:
    """Return the versions that must be equal on all nodes for equal results."""
    source = source_digest(source_files(".py"))
    return {
        "Python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in LIBRARIES},
        "the testbed": f"{VERSION} (source {source[:12]})",
    }


class ExternalCluster(Cluster):
    """A cluster that already runs; this machine is one of its nodes.

    Parameters
    ----------
    address : ``HOST:PORT`` of its head, or ``auto``.

    Raises
    ------
    UserError : it cannot be joined, or a node has other versions than this process.
    """

    spread = "SPREAD"
    host_cpus = 1
    foreign = True

    def __init__(self, address: str) -> None:
        address = found_address(address)
        loopback = address.rpartition(":")[0] in ("127.0.0.1", "localhost")
        own_address: dict[str, Any] = {"_node_ip_address": "127.0.0.1"} if loopback else {}
        try:
            with quiet_ray():
                ray.init(
                    address=address,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    configure_logging=False,
                    **own_address,
                )
        except Exception as error:  # Ray raises bare ones too
            reason = textwrap.shorten(str(error) or type(error).__name__, 300)
            raise UserError(f"--ray-address: cannot join {address} ({reason})") from None
        self._watchdog = Watchdog()
        self._stopped = StoppedProcesses()
        self._unplaced: list[Any] = []
        self._looking: list[Any] = []
        self._pids: dict[str, list[int]] = {}
        self._observers: dict[str, Any] = {}
        try:
            self.address = str(ray.get_runtime_context().gcs_address)
            self._looked = time.monotonic()
            self._vital = _raylet_here()
            self._watchdog.watch(self._vital)
            self._check_versions()
        except BaseException:
            self.close()
            raise

    @staticmethod
    def cpus() -> int:
        """Return the number of CPUs of the cluster."""
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        return int(resources.get("CPU", 0))

    def check_hosts(self, hosts: int) -> None:
        """Check that the cluster has one CPU for each host.

        Raises
        ------
        UserError : it has fewer.
        """
        if hosts > self.cpus():
            raise UserError(
                f"engine.hosts: {hosts} hosts need as many CPUs, the cluster at {self.address} "
                f"has {self.cpus()}"
            )

    def _check_versions(self) -> None:
        own = versions()
        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        for node in nodes:
            if not node["Alive"]:
                continue
            where = f"node {node['NodeManagerAddress']} ({node['NodeID'][:8]})"
            place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            probe = ray.remote(num_cpus=0)(versions).options(scheduling_strategy=place)
            try:
                theirs: dict[str, str] = ray.get(probe.remote(), timeout=PROBED_WITHIN_S)
            except (ray.exceptions.RayError, ImportError) as error:
                reason = str(error).strip().splitlines()[-1]
                raise UserError(
                    f"--ray-address: {where} cannot run the testbed ({reason}); install the same "
                    "version there"
                ) from None
            for name, version in own.items():
                if theirs.get(name) != version:
                    raise UserError(
                        f"--ray-address: {where} has {name} {theirs.get(name)}, this process "
                        f"has {version}; results are equal only where versions are"
                    )

    def observe(self, actor: Any) -> None:
        """Look whether the process of an actor is stopped, from now on."""
        self._unplaced.append(actor.place.remote())

    def _end_stopped(self) -> None:
        """End processes of this run that stay stopped, on this node and on others."""
        placed, self._unplaced = _ready(self._unplaced)
        for node, pid in placed:
            self._pids.setdefault(node, []).append(pid)
        _, self._looking = _ready(self._looking)
        if self._looking:
            return  # another node answers late
        for node, pids in self._pids.items():
            if node == ray.get_runtime_context().get_node_id():
                self._stopped.end(self._stopped.with_pids(pids))
                continue
            if node not in self._observers:
                place = NodeAffinitySchedulingStrategy(node, soft=False)
                self._observers[node] = ObserverActor.options(scheduling_strategy=place).remote()
            self._looking.append(self._observers[node].end.remote(pids))

    def _look(self) -> None:
        """Check that the cluster's head still listens, and end processes that stay stopped.

        Raises
        ------
        HostError : the head does not listen.
        """
        if not answers(self.address):
            raise HostError(
                f"the cluster at {self.address} does not answer any more; continue with --resume"
            )
        try:
            self._end_stopped()
        except GONE as error:
            raise gone("the cluster", error) from None

    def close(self) -> None:
        """Disconnect from the cluster."""
        for observer in self._observers.values():
            with contextlib.suppress(ray.exceptions.RayError, ConnectionError):
                ray.kill(observer)
        if ray.is_initialized():
            ray.shutdown()
        self._watchdog.dismiss()


def _ready(references: list[Any]) -> tuple[list[Any], list[Any]]:
    """Return the results that are there already, and the references of those that are not.

    A call to a process or a node that died has no result, and is left out.
    """
    if not references:
        return [], []
    done, waiting = ray.wait(references, num_returns=len(references), timeout=0)
    results = []
    for reference in done:
        with contextlib.suppress(ray.exceptions.RayError):
            results.append(ray.get(reference))
    return results, waiting


def _raylet_here() -> list[psutil.Process]:
    """Return the raylet that this process is connected to, if it can be seen."""
    node = f"--node_id={ray.get_runtime_context().get_node_id()}"
    return [
        process
        for process in psutil.process_iter(["name", "cmdline"])
        if process.info["name"] == "raylet" and node in (process.info["cmdline"] or [])
    ]


def cpus_of(address: str) -> int:
    """Join a cluster, return its number of CPUs, and leave it.

    Raises
    ------
    UserError : it cannot be joined, or a node has other versions than this process.
    """
    cluster = ExternalCluster(address)
    try:
        return cluster.cpus()
    finally:
        cluster.close()
