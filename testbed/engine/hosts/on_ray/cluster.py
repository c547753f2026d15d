"""Starts Ray on this machine, checks that it lives, and leaves nothing behind."""

import contextlib
import logging
import math
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import psutil
import ray
import torch

from testbed.core.compute import compute_device
from testbed.core.errors import HostError, UserError
from testbed.core.process import project_python_path
from testbed.engine.hosts.on_ray import stopped
from testbed.engine.hosts.on_ray.stopped import LOOK_EVERY_S, StoppedProcesses
from testbed.engine.hosts.on_ray.watchdog import GONE as RAY_GONE
from testbed.engine.hosts.on_ray.watchdog import Watchdog, alive, processes_of

_LOG = logging.getLogger(__name__)
CALL_TIMEOUT_S = 6 * 3600.0  # longer than any one attack; a wait without bound could hang
_GPU_PARTS = 10_000  # Ray's precision of a part of a GPU
SLICE_S = 0.25  # how often a wait checks that Ray lives
MAX_TEMPORARY_PATH = 30
BESIDE_STORE_BYTES = 1 << 20
"""Arguments and results up to this size travel in the call itself. Writing them to the object store
and reading them takes the raylet, which has no core of its own while the hosts compute."""
GONE = (ray.exceptions.RaySystemError, ConnectionError)
VITAL = ("raylet", "gcs_server")  # processes without which Ray answers no call


def short_temporary_folder() -> str:
    """Return a folder whose path leaves room for Ray's sockets (107 characters on Linux)."""
    usual = tempfile.gettempdir()
    return usual if len(usual) <= MAX_TEMPORARY_PATH else "/tmp"  # noqa: S108


def _to_log(data: Any, ignore_prefix: bool = False) -> None:
    """Log what Ray would print on the terminal, such as its raylet's last messages."""
    for line in data["lines"]:
        _LOG.warning("%s: %s", data.get("pid"), line)


@contextlib.contextmanager
def quiet_ray() -> Iterator[None]:
    """Initialise Ray in this context: it prints to the log, and the SIGTERM handler is restored.

    Raises
    ------
    KeyboardInterrupt : a SIGTERM came while Ray's own handler was installed, which exits.
    """
    main = threading.current_thread() is threading.main_thread()
    log: logging.Logger = ray._private.worker.logger
    level = log.level
    if not main:
        log.setLevel(logging.ERROR)  # it warns that it leaves the SIGTERM handler alone
    on_terminate = signal.getsignal(signal.SIGTERM)
    ray._private.worker.print_to_stdstream = _to_log  # Ray has no switch for it
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        log.setLevel(level)
        if main:
            signal.signal(signal.SIGTERM, on_terminate)


@contextlib.contextmanager
def few_services() -> Iterator[None]:
    """Initialise Ray in this context without processes that a run does not need.

    These are the dashboard, which Ray starts even with ``include_dashboard=False`` (in Ray 2.55 it
    queries 169.254.169.254 and metadata.google.internal for the cloud it runs in), the
    autoscaler's monitor, and the log monitor. ``ray.init`` has no switches for them.
    """
    services: Any = ray._private.services
    parameter: Any = ray._private.parameter
    start_api_server, params = services.start_api_server, parameter.RayParams
    services.start_api_server = lambda *_, **__: (None, None)
    parameter.RayParams = partial(params, no_monitor=True, include_log_monitor=False)
    try:
        yield
    finally:
        services.start_api_server, parameter.RayParams = start_api_server, params


def first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def gone(what: str, error: Exception) -> HostError:
    """Return the error that ends the run: Ray itself no longer answers."""
    return HostError(f"{what}: Ray is gone ({first_line(error)}); continue with --resume")


def check_alive(vital: Sequence[psutil.Process]) -> None:
    """Check that Ray's vital processes live.

    Raises
    ------
    HostError : one is dead.
    """
    for process in vital:
        if not alive(process):
            raise HostError(RAY_GONE.format(pid=process.pid))


def gpu_share(processes: int, gpus: int) -> float:
    """Return the part of a GPU of each process; the other half of every GPU is the driver's."""
    on_each = math.ceil(processes / gpus)
    return math.floor(0.5 / on_each * _GPU_PARTS) / _GPU_PARTS


class Cluster:
    """A Ray cluster that this process is connected to.

    Attributes
    ----------
    spread : the scheduling strategy of actors.
    host_cpus : cores that a host actor reserves.
    foreign : whether it existed before this run; others may use it.
    gpu_share : part of a GPU that every actor which computes reserves, and whose memory it may use.
    """

    spread = "DEFAULT"
    host_cpus = 0
    gpu_share = 0.0
    foreign = False
    _vital: Sequence[psutil.Process] = ()
    _looked = 0.0

    def share_gpus(self, processes: int) -> None:
        """Part the GPUs among the processes of a run, if it computes on them.

        Raises
        ------
        UserError : the cluster has no GPU.
        """
        if compute_device().type == "cpu":
            return
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        gpus = int(resources.get("GPU", 0))
        if gpus == 0:
            raise UserError(
                "engine.device: 'cuda' needs a Ray cluster with GPUs, and this one has none; give "
                "'cpu', or run without --ray-address and --jobs"
            )
        self.gpu_share = gpu_share(processes, gpus)

    def check(self) -> None:
        """Check that Ray's own processes live, and now and then look closely.

        Raises
        ------
        HostError : the cluster is gone and will answer no call.
        """
        check_alive(self._vital)
        if time.monotonic() - self._looked > LOOK_EVERY_S:
            self._looked = time.monotonic()
            self._look()

    def _look(self) -> None:
        """Look at the cluster in ways that take longer."""
        raise NotImplementedError

    def observe(self, actor: Any) -> None:
        """Look whether the process of an actor is stopped, from now on."""

    def close(self) -> None:
        """Leave a joined cluster as it was; stop one that was started here."""
        raise NotImplementedError

    def wait(
        self,
        references: list[Any],
        what: str,
        count: int | None = None,
        within_s: float = CALL_TIMEOUT_S,
    ) -> list[Any]:
        """Wait until ``count`` of the references are ready (all by default), and return those.

        Raises
        ------
        HostError : the cluster died, or the time is up.
        """
        wanted = len(references) if count is None else count
        deadline = time.monotonic() + within_s
        if time.monotonic() - self._looked > LOOK_EVERY_S:
            # Hosts answer at once even without a head, until Ray ends this process.
            self.check()
        while True:
            try:
                done, _ = ray.wait(references, num_returns=wanted, timeout=SLICE_S)
            except GONE as error:
                raise gone(what, error) from None
            if len(done) >= wanted:
                ready: list[Any] = done
                return ready
            self.check()
            if time.monotonic() > deadline:
                raise HostError(f"{what} did not answer within {within_s:g} s")


class LocalCluster(Cluster):
    """Ray on this machine for one run or sweep: on loopback, in a folder of its own.

    Parameters
    ----------
    cores : cores that Ray may use.

    Attributes
    ----------
    address : at which other processes of this machine may join it.

    Raises
    ------
    UserError : Ray cannot start here.
    """

    def __init__(self, cores: int) -> None:
        self.folder = tempfile.mkdtemp(prefix="sf-", dir=short_temporary_folder())
        self._vital: list[psutil.Process] = []
        self._known: set[psutil.Process] = set()
        self._stopped, self._stopped_vital = StoppedProcesses(), StoppedProcesses()
        self._watchdog = Watchdog(self.folder)
        try:
            self._start(cores)
        except BaseException:
            self.close()
            raise

    def _start(self, cores: int) -> None:
        os.environ["PYTHONPATH"] = project_python_path()
        before = set(psutil.Process().children(recursive=True))
        try:
            with quiet_ray(), few_services():
                ray.init(
                    address="local",
                    num_cpus=cores,
                    num_gpus=torch.cuda.device_count() if compute_device().type == "cuda" else 0,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    configure_logging=False,
                    _node_ip_address="127.0.0.1",
                    _temp_dir=self.folder,
                    _system_config={"max_direct_call_object_size": BESIDE_STORE_BYTES},
                )
            self.address = str(ray.get_runtime_context().gcs_address)
        except Exception as error:  # Ray raises bare ones, such as when it starts too slowly
            raise UserError(
                f"Ray could not start ({first_line(error)}); engine.backend=inline runs without it"
            ) from error
        finally:
            after = set(psutil.Process().children(recursive=True))
            self._known = {child for child in after - before if child.pid != self._watchdog.pid}
            self._vital = [child for child in self._known if child.name() in VITAL]
            self._watchdog.watch(self._vital)

    def close(self) -> None:
        """Stop Ray, wait for its processes to end, and remove its folder."""
        self._remember_workers()
        if not all(alive(process) for process in self._vital):
            self._kill()  # a graceful end would wait for the dead
        if ray.is_initialized():
            ray.shutdown()
        psutil.wait_procs(self._known, timeout=5)
        self._kill()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._watchdog.dismiss()
        sys.stdout.flush()

    def _look(self) -> None:
        """End workers that stay stopped.

        Raises
        ------
        HostError : one of Ray's own processes stays stopped.
        """
        for process in self._stopped_vital.look(self._vital):
            raise HostError(
                f"Ray's process {process.pid}, which all hosts depend on, has been stopped for "
                f"{stopped.ENDED_AFTER_S:g} s; continue with --resume"
            )
        self._stopped.end(self._remember_workers())

    def _remember_workers(self) -> set[psutil.Process]:
        """Return the workers: the raylet's children, which are orphans when it is gone."""
        workers: set[psutil.Process] = set()
        for process in self._vital:
            with contextlib.suppress(psutil.Error):
                if process.name() == "raylet":
                    workers |= set(process.children(recursive=True))
        self._known |= workers
        return workers

    def _kill(self) -> None:
        """Kill the remaining processes; one that was just starting may have lost its parent."""
        named = processes_of(self.folder)
        self._known |= {process for process in named if process.pid != self._watchdog.pid}
        left = [process for process in self._known if alive(process)]
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=5)
