"""Starts the hosts of a run in the background, while the run reads and checks its inputs."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from testbed.core.process import without_collections
from testbed.engine.hosts.backend import Backend, InlineBackend
from testbed.engine.hosts.host import HostData

if TYPE_CHECKING:
    from testbed.engine.hosts.on_ray.backend import RayBackend


def starting_hosts(backend: str, hosts: int | None, address: str | None = None) -> "StartingHosts":
    """Begin to start the hosts of a backend.

    Parameters
    ----------
    backend : ``ray`` or ``inline``.
    hosts : their number; None: one per core.
    address : Ray cluster to join.
    """

    def start() -> "RayBackend":
        with without_collections():  # importing Ray takes a second
            from testbed.engine.hosts.on_ray.backend import RayBackend

        return RayBackend(hosts, address=address)

    return StartingHosts(None if backend == "inline" else start)


class StartingHosts:
    """Hosts that start in a thread; leaving the context without having taken them ends them.

    The thread stays as long as this process: the system ends Ray's processes with the thread that
    started them, as Ray asks it to.

    Parameters
    ----------
    start : starts them; None: they need no start.
    """

    def __init__(self, start: "Callable[[], RayBackend] | None") -> None:
        self._start = start
        self._started: RayBackend | None = None
        self._error: BaseException | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="start hosts", daemon=True)

    def _run(self) -> None:
        assert self._start is not None
        try:
            self._started = self._start()
        except BaseException as error:  # raised in the run's own thread
            self._error = error
        self._over.set()
        threading.Event().wait()

    def __enter__(self) -> Self:
        if self._start is not None:
            self._thread.start()
        return self

    def with_data(self, data: HostData) -> Backend:
        """Wait for the hosts, give them the data, and hand them over for the caller to close.

        Raises
        ------
        UserError, HostError : they could not start.
        """
        if self._start is None:
            return InlineBackend(data)
        self._over.wait()
        if self._error is not None:
            raise self._error
        assert self._started is not None
        self._started.load(data)
        backend, self._started = self._started, None
        return backend

    def __exit__(self, *error: object) -> None:
        if self._start is not None:
            self._over.wait()
        if self._started is not None:
            self._started.close()
