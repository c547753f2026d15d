"""No process of a run connects to anything beyond this machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes
OFFLINE = Path(__file__).resolve().parents[2] / "offline"
NAMESPACE = ["unshare", "--user", "--map-root-user", "--net"]
LOOPBACK_UP = """
import fcntl, socket, struct, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
    IFF_UP, SIOCSIFFLAGS = 1, 0x8914
    fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
import os
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
ADDRESS_LOOKUP = {"connect udp 8.8.8.8", "connect udp 2001:4860:4860::8888"}
"""Ray asks the kernel by these for its own address; a UDP socket that connects sends nothing."""


def watched(folder):
    """Return the environment of processes whose connections are noted, and the file of notes."""
    notes = folder / "attempts"
    paths = os.pathsep.join([str(OFFLINE), os.environ.get("PYTHONPATH", "")])
    ours = {"FLWR_TELEMETRY_ENABLED", "RAY_USAGE_STATS_ENABLED"}  # the entry points' business
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    return kept | {"ATTEMPTS": str(notes), "PYTHONPATH": paths}, notes


def without_network():
    """Return the command that runs Python where there is only loopback, if this is permitted."""
    try:
        probe = [*NAMESPACE, sys.executable, "-c", LOOPBACK_UP, "-c", "pass"]
        permitted = subprocess.run(probe, capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        permitted = False
    return [*NAMESPACE, sys.executable, "-c", LOOPBACK_UP] if permitted else [sys.executable]


def test_what_the_watch_notes(tmp_path):
    environment, notes = watched(tmp_path)
    code = """
import socket
for address in ("10.0.0.1", "127.0.0.1"):
    try:
        socket.create_connection((address, 9), timeout=1)
    except OSError:
        pass
try:
    socket.getaddrinfo("example.org", 80)
except OSError:
    pass
"""
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert notes.read_text().splitlines() == [
        *("getaddrinfo 10.0.0.1", "getaddrinfo example.org"),
    ]


def test_a_run_without_a_network_completes_and_asks_for_none(tiny, tmp_path, write_scenario):
    tiny["training"]["rounds"] = 1
    tiny["arms"] = tiny["arms"][:1]
    tiny["engine"] |= {"backend": "ray", "hosts": 1}
    environment, notes = watched(tmp_path)
    run = ["-m", "testbed.run", str(write_scenario(tiny)), "--out", str(tmp_path / "run")]
    done = subprocess.run(
        [*without_network(), *run], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "report.html").exists()
    attempts = set(notes.read_text().splitlines()) if notes.exists() else set()
    assert attempts <= ADDRESS_LOOKUP
