"""Stopped processes are replaced like dead ones; busy, sleeping and halted ones are left alone."""

import ctypes
import os
import signal
import time

import numpy as np
import psutil
import pytest

from testbed.core.errors import HostError
from testbed.engine.hosts.on_ray import stopped
from testbed.engine.hosts.on_ray.stopped import StoppedProcesses

LIMIT_S = 3.0


class FakeProcess:
    """A process whose state the test sets."""

    def __init__(self, state):
        self.state, self.pid, self.killed = state, 1, False

    def status(self):
        return self.state

    def kill(self):
        self.killed = True


@pytest.fixture
def clock(monkeypatch):
    """Return a clock that the test turns on."""

    class Clock:
        now = 0.0

        def monotonic(self):
            return self.now

    made = Clock()
    monkeypatch.setattr(stopped, "time", made)
    return made


def looks(clock, process, seconds, step=2.0, watch=None):
    """Look at a process for some time; return after how many seconds it was ended, if it was."""
    watch = watch or StoppedProcesses()
    watch.end([process])
    for passed in np.arange(step, seconds + step, step):
        clock.now += step
        if watch.end([process]):
            return passed
    return None


def test_a_stopped_process_is_ended_within_half_a_minute(clock):
    process = FakeProcess(psutil.STATUS_STOPPED)
    assert looks(clock, process, 60.0) == 20.0
    assert process.killed


@pytest.mark.parametrize(
    "state",
    [
        psutil.STATUS_RUNNING,
        psutil.STATUS_SLEEPING,
        psutil.STATUS_DISK_SLEEP,  # swapping
        psutil.STATUS_TRACING_STOP,  # under a debugger
    ],
)
def test_a_slow_process_is_left_alone(clock, state):
    process = FakeProcess(state)
    assert looks(clock, process, 7 * 3600.0, step=60.0) is None
    assert not process.killed


def test_a_process_that_goes_on_starts_anew(clock):
    process, watch = FakeProcess(psutil.STATUS_STOPPED), StoppedProcesses()
    assert looks(clock, process, 18.0, watch=watch) is None
    process.state = psutil.STATUS_RUNNING
    assert looks(clock, process, 2.0, watch=watch) is None
    process.state = psutil.STATUS_STOPPED
    assert looks(clock, process, 18.0, watch=watch) is None


def test_nothing_is_ended_when_everything_slept(clock):
    process, watch = FakeProcess(psutil.STATUS_STOPPED), StoppedProcesses()
    watch.end([process])
    for _ in range(4):  # the machine sleeps for eight hours, without a look
        clock.now += 8 * 3600.0
        assert not watch.end([process])
    process.state = psutil.STATUS_SLEEPING
    assert not watch.end([process])


def test_ended_processes_are_not_confused_with_later_ones():
    watch, own = StoppedProcesses(), os.getpid()
    (first,) = watch.with_pids([own, 2**22 + 1])
    assert watch.with_pids([own])[0] is first


# With processes ----------------------------------------------------------------------------------


@pytest.fixture
def soon(monkeypatch):
    """Shorten the time after which a stopped process is ended."""
    monkeypatch.setattr(stopped, "ENDED_AFTER_S", LIMIT_S)


@pytest.mark.processes
@pytest.mark.usefixtures("soon")
def test_a_stopped_attack_starts_over_in_a_new_process(backend, tmp_path):
    begun = tmp_path / "begun"

    def stops_once():
        if not begun.exists():
            begun.touch()
            os.kill(os.getpid(), signal.SIGSTOP)
        return 7

    before = backend.job_restarts
    assert backend.run_jobs([("stops", stops_once, ()), ("lives", abs, (-1,))]) == [7, 1]
    assert backend.job_restarts == before + 1


@pytest.mark.processes
@pytest.mark.usefixtures("soon")
def test_busy_attacks_are_not_replaced(backend):
    def holds_pythons_lock():
        ctypes.PyDLL(None).sleep(int(2.5 * LIMIT_S))
        return 1

    def computes():
        end = time.monotonic() + 2.5 * LIMIT_S
        while time.monotonic() < end:
            sum(range(1000))
        return 2

    before = backend.job_restarts
    jobs = [("holds", holds_pythons_lock, ()), ("computes", computes, ())]
    assert backend.run_jobs(jobs) == [1, 2]
    assert backend.job_restarts == before


@pytest.mark.processes
@pytest.mark.usefixtures("soon")
def test_a_stopped_part_of_ray_ends_the_run_in_a_sentence(backend):
    (raylet,) = [one for one in backend._cluster._vital if one.name() == "raylet"]

    pid = raylet.pid

    def stops_raylet():
        os.kill(pid, signal.SIGSTOP)
        time.sleep(60.0)

    try:
        with pytest.raises(HostError, match=r"has been stopped for .* s; continue with --resume"):
            backend.run_jobs([("stops", stops_raylet, ())])
    finally:
        raylet.resume()
