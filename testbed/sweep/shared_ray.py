"""One Ray for all concurrent points of a sweep: each point's process joins it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from testbed.core.errors import UserError
from testbed.engine.hosts.backend import MOST_HOSTS, default_hosts
from testbed.scenario.schema import Scenario
from testbed.sweep.grid import Point

if TYPE_CHECKING:
    from testbed.engine.hosts.on_ray.cluster import LocalCluster


class SharedRay:
    """A running cluster, or a Ray on this machine for the duration of the sweep.

    The latter starts with the first point that needs it. If it dies, it is closed, and the next
    point starts another.

    Parameters
    ----------
    points : points that may run. Those on Ray get the hosts that they ask for, or else an equal
        share of the CPUs of the cluster or this machine.
    jobs : points that run at once.
    address : of the cluster; None starts Ray here.

    Raises
    ------
    UserError : the cluster cannot be joined, or has too few CPUs for the concurrent points.
    """

    def __init__(self, points: Sequence[Point], jobs: int, address: str | None = None) -> None:
        self._address = address
        self._started: LocalCluster | None = None
        at_once = max(1, min(jobs, len(points)))
        cores = default_hosts() if address is None else _cpus_of(address)
        self._share = max(1, min(cores // at_once, MOST_HOSTS))
        hosts = sorted(self._hosts(point.scenario) for point in points if on_ray(point))
        self._most_hosts = sum(hosts[-at_once:])
        if address is not None and self._most_hosts > cores:
            raise UserError(
                f"--jobs {jobs}: {at_once} points at once have {self._most_hosts} hosts, which "
                f"need as many CPUs; the cluster at {address} has {cores}: lower --jobs or "
                "engine.hosts"
            )

    def _hosts(self, scenario: Scenario) -> int:
        return scenario.engine.hosts or self._share

    def scenario(self, point: Point) -> Scenario:
        """Return a point's scenario with its number of hosts, which does not affect results."""
        scenario = point.scenario
        if not on_ray(point):
            return scenario
        engine = scenario.engine.model_copy(update={"hosts": self._hosts(scenario)})
        return scenario.model_copy(update={"engine": engine})

    def options(self, point: Point) -> list[str]:
        """Return the option with Ray's address for a point's process; start Ray if necessary.

        Raises
        ------
        UserError : Ray cannot start here.
        """
        return ["--ray-address", self._joinable()] if on_ray(point) else []

    def _joinable(self) -> str:
        if self._address is not None:
            return self._address
        if self._started is None:
            # importing Ray takes a second
            from testbed.engine.hosts.on_ray.cluster import LocalCluster

            self._started = LocalCluster(self._most_hosts)
        return self._started.address

    def check(self) -> None:
        """Check that a Ray that was started here lives; points check an external cluster.

        Raises
        ------
        HostError : it is dead.
        """
        if self._started is not None:
            self._started.check()

    def close(self) -> None:
        """Stop a Ray that was started here, with all its processes and its folder."""
        started, self._started = self._started, None
        if started is not None:
            started.close()


def on_ray(point: Point) -> bool:
    """Return whether a point runs on Ray."""
    return point.scenario.engine.backend == "ray"


def _cpus_of(address: str) -> int:
    from testbed.engine.hosts.on_ray.external_cluster import cpus_of  # importing Ray takes a second

    return cpus_of(address)
