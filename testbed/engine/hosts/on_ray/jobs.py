"""The adversaries' processes of a run; a job whose process died is repeated.

A job is a function of its arguments, so that another process computes the same bytes. Its query
budget is restored first. A job whose process dies repeatedly stops the run.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import ray

from testbed.core.errors import HostError
from testbed.engine.hosts.backend import Job
from testbed.engine.hosts.on_ray.actors import JobActor
from testbed.engine.hosts.on_ray.cluster import Cluster, first_line
from testbed.engine.hosts.on_ray.hosts import DEATHS, MOST_DEATHS, fetch

T = TypeVar("T")
_LOG = logging.getLogger(__name__)


class RayJobs:
    """At most as many processes as there are hosts, started for their first jobs or before.

    Attributes
    ----------
    actors : the processes.
    restarts : how many died and were replaced so far.
    """

    def __init__(self, cluster: Cluster, most: int) -> None:
        self._cluster = cluster
        self._most = most
        self.actors: list[Any] = []
        self.restarts = 0

    def start(self, jobs: int) -> None:
        """Begin to start as many processes as that many jobs can use, without waiting for them."""
        while len(self.actors) < min(self._most, jobs):
            self.actors.append(self._new_actor())

    def run(
        self, jobs: Sequence[Job[T]], on_done: Callable[[str], None], renew: Callable[[int], None]
    ) -> list[T]:
        """Run the jobs, each in one thread, and return their results in order.

        Parameters
        ----------
        renew : called with a job's index before it is repeated.

        Raises
        ------
        HostError : a job failed, or its process died ``MOST_DEATHS`` times.
        """
        self.start(len(jobs))
        waiting = list(range(len(jobs)))
        running: dict[Any, tuple[int, Any]] = {}
        free = list(self.actors)
        results: dict[int, T] = {}
        deaths: Counter[int] = Counter()
        while waiting or running:
            while waiting and free:
                index, worker = waiting.pop(0), free.pop(0)
                _, function, arguments = jobs[index]
                running[worker.run.remote(function, arguments)] = (index, worker)
            (done,) = self._cluster.wait(list(running), "an adversary", count=1)
            index, worker = running.pop(done)
            name = jobs[index][0]
            try:
                results[index] = fetch(done, name)
            except DEATHS as error:
                reason = first_line(error)
                deaths[index] += 1
                if deaths[index] == MOST_DEATHS:
                    raise HostError(
                        f"{name}: its process died {MOST_DEATHS} times in a row ({reason}); "
                        "continue with --resume"
                    ) from None
                _LOG.warning("%s: its process died (%s); a new one starts over", name, reason)
                free.append(self._replace(worker))
                renew(index)
                waiting.insert(0, index)
                continue
            free.append(worker)
            on_done(name)
        return [results[index] for index in range(len(jobs))]

    def _new_actor(self) -> Any:
        actor = JobActor.options(
            scheduling_strategy=self._cluster.spread, num_gpus=self._cluster.gpu_share
        ).remote()
        self._cluster.observe(actor)
        return actor

    def _replace(self, worker: Any) -> Any:
        """Replace a dead process by a new one."""
        self.restarts += 1
        ray.kill(worker)  # it may be alive but unreachable
        actor = self._new_actor()
        self.actors[self.actors.index(worker)] = actor
        return actor
