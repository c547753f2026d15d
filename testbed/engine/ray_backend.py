"""Hosts and adversaries as Ray actors, bound to loopback, with nothing phoning home."""

import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

# Read by Ray when it is imported. Without the last, Ray on Linux replaces 127.0.0.1 by the
# machine's outward address, and listens on every interface.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_DISABLE_IMPORT_WARNING"] = "1"
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")

import numpy as np
import psutil
import ray
import torch
from flwr.app import Message
from numpy.typing import NDArray

from clients.deployed import DeployedFrontEnd
from clients.program import EdgeProgram
from testbed.core.errors import HostError, UserError
from testbed.engine.backend import Backend, Job
from testbed.engine.host import Delivery, Host, Usage, process_usage
from testbed.engine.oracles import QueryAccess, QueryService

_LOG = logging.getLogger(__name__)
T = TypeVar("T")
CALL_TIMEOUT_S = 6 * 3600.0  # longer than any one attack; a wait without bound could hang
MAX_TEMPORARY_PATH = 30
PROJECT_ROOT = Path(__file__).resolve().parents[2]


def _short_temporary_folder() -> str:
    """Return a folder whose path leaves room for Ray's sockets (107 characters on Linux)."""
    usual = tempfile.gettempdir()
    return usual if len(usual) <= MAX_TEMPORARY_PATH else "/tmp"  # noqa: S108


class _HostActor(Host):
    """Ray's side of a host: the host itself, in one thread, saying what it has cost."""

    def __init__(self, *data: Any) -> None:
        torch.set_num_threads(1)
        super().__init__(*data)

    def usage(self) -> Usage:
        return process_usage()


class _JobActor:
    """A process that runs one job after another in one thread; adversaries live here."""

    def __init__(self) -> None:
        torch.set_num_threads(1)

    def run(self, function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        return function(*arguments)

    def usage(self) -> Usage:
        return process_usage()


class _QueryActor(QueryService):
    """A process that holds front-ends and answers queries; adversaries live elsewhere."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        super().__init__()

    def usage(self) -> Usage:
        return process_usage()


class _AskActor:
    """Sends queries to the actor; this, with a ticket, is all that travels to an adversary."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def __call__(self, ticket: int, images: NDArray[np.float32], draw: int) -> NDArray[np.float32]:
        try:
            answer: NDArray[np.float32] = ray.get(
                self._actor.query.remote(ticket, images, draw), timeout=CALL_TIMEOUT_S
            )
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        return answer


class RayBackend(Backend):
    """One host actor per core by default, each simulating many devices.

    Parameters
    ----------
    hosts : number of host actors.
    """

    name = "ray"

    def __init__(
        self,
        hosts: int,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        device_rows: Sequence[NDArray[np.int64]],
    ) -> None:
        self.hosts = hosts
        self._folder = tempfile.mkdtemp(prefix="sf-", dir=_short_temporary_folder())
        self._children: list[psutil.Process] = []
        self._job_actors: list[Any] = []
        self._query_actor: Any = None
        try:
            self._start()
            shared = (ray.put(images), ray.put(labels), ray.put(list(device_rows)))
            actor = ray.remote(num_cpus=0)(_HostActor)
            self._actors: list[Any] = [actor.remote(*shared) for _ in range(hosts)]
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        paths = [str(PROJECT_ROOT), os.environ.get("PYTHONPATH", "")]
        os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
        before = set(psutil.Process().children(recursive=True))
        main = threading.current_thread() is threading.main_thread()
        on_terminate = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(
                address="local",
                num_cpus=self.hosts,
                num_gpus=0,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=False,
                _node_ip_address="127.0.0.1",
                _temp_dir=self._folder,
            )
        except (RuntimeError, OSError, ValueError, ConnectionError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(
                f"Ray could not start ({reason}); engine.backend=inline runs without it"
            ) from error
        finally:
            if main:
                signal.signal(signal.SIGTERM, on_terminate)  # Ray puts its own there
            self._children = [
                child for child in psutil.Process().children(recursive=True) if child not in before
            ]

    def _get(self, references: list[Any], what: str) -> list[Any]:
        try:
            results: list[Any] = ray.get(references, timeout=CALL_TIMEOUT_S)
        except ray.exceptions.GetTimeoutError:
            raise HostError(f"{what} did not answer within {CALL_TIMEOUT_S:g} s") from None
        except ray.exceptions.RayActorError as error:
            reason = str(error).strip().splitlines()[0]
            raise HostError(f"{what}: a process died ({reason}); continue with --resume") from None
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, UserError):
                raise cause from None
            _LOG.error("%s failed: %s", what, error)
            raise HostError(f"{what} failed: {type(cause).__name__}: {cause}") from None
        return results

    def install(self, programs: Sequence[EdgeProgram]) -> None:
        """Install an arm's program on every host."""
        self._get([actor.install.remote(programs) for actor in self._actors], "installing")

    def handle(self, shards: Sequence[tuple[int, list[Message]]]) -> list[list[Delivery]]:
        """Run all shards at once, each on its host."""
        references = [self._actors[host].handle.remote(messages) for host, messages in shards]
        return self._get(references, "a host")

    def run_jobs(
        self,
        jobs: Sequence[Job[T]],
        on_done: Callable[[str], None] = lambda name: None,
    ) -> list[T]:
        """Run the jobs on as many adversary actors as there are hosts."""
        actor = ray.remote(num_cpus=0)(_JobActor)
        while len(self._job_actors) < min(self.hosts, len(jobs)):
            self._job_actors.append(actor.remote())
        waiting = list(range(len(jobs)))
        running: dict[Any, tuple[int, Any]] = {}
        free = list(self._job_actors)
        results: dict[int, T] = {}
        while waiting or running:
            while waiting and free:
                index, worker = waiting.pop(0), free.pop(0)
                _, function, arguments = jobs[index]
                running[worker.run.remote(function, arguments)] = (index, worker)
            done, _ = ray.wait(list(running), num_returns=1, timeout=CALL_TIMEOUT_S)
            if not done:
                raise HostError(f"an adversary did not answer within {CALL_TIMEOUT_S:g} s")
            index, worker = running.pop(done[0])
            results[index] = self._get([done[0]], jobs[index][0])[0]
            free.append(worker)
            on_done(jobs[index][0])
        return [results[index] for index in range(len(jobs))]

    def open_queries(
        self, deployed: DeployedFrontEnd, adversary: str, limit: int | None
    ) -> QueryAccess:
        """Serve a front-end's queries from an actor of its own, the same for all adversaries."""
        if self._query_actor is None:
            self._query_actor = ray.remote(num_cpus=0)(_QueryActor).remote()
        opening = self._query_actor.open.remote(deployed, adversary, limit)
        return QueryAccess(self._get([opening], "queries")[0], _AskActor(self._query_actor))

    def close_queries(self, access: QueryAccess) -> None:
        """Serve them no longer."""
        self._get([self._query_actor.close.remote(access.ticket)], "queries")

    def usage(self) -> dict[str, Usage]:
        """Return the cost of the driver, the hosts and the adversaries."""
        named = [(f"host {index}", actor) for index, actor in enumerate(self._actors)]
        named += [(f"adversary {index}", actor) for index, actor in enumerate(self._job_actors)]
        if self._query_actor is not None:
            named.append(("queries", self._query_actor))
        usages = self._get([actor.usage.remote() for _, actor in named], "measuring")
        return {"driver": process_usage()} | {
            name: usage for (name, _), usage in zip(named, usages, strict=True)
        }

    def close(self) -> None:
        """Stop Ray, wait for its processes to be gone, and remove its folder."""
        if ray.is_initialized():
            ray.shutdown()
        _, alive = psutil.wait_procs(self._children, timeout=5)
        for process in alive:
            process.kill()
        psutil.wait_procs(alive, timeout=5)
        shutil.rmtree(self._folder, ignore_errors=True)
        sys.stdout.flush()
