"""Addresses of Ray clusters that a run may join, checked before anything is written."""

import os
import re
import socket

from testbed.core.errors import UserError

AUTO = "auto"
ANSWERS_WITHIN_S = 5.0


def host_and_port(address: str) -> tuple[str, int]:
    """Return the two parts of an address such as ``10.0.0.1:6379``.

    Raises
    ------
    UserError : it is no valid address.
    """
    match = re.fullmatch(r"([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:]+\]):(\d{1,5})", address)
    if match is None or not 0 < int(match.group(2)) < 2**16:
        raise UserError(
            f"--ray-address: '{address}' is no address; give HOST:PORT of the cluster's head, or "
            f"'{AUTO}' on one of its nodes"
        )
    return match.group(1).strip("[]"), int(match.group(2))


def answers(address: str, within_s: float = ANSWERS_WITHIN_S) -> bool:
    """Return whether anything listens at an address."""
    try:
        with socket.create_connection(host_and_port(address), timeout=within_s):
            return True
    except OSError:
        return False


def found_address(address: str) -> str:
    """Return the address of a cluster; ``auto`` means this machine's cluster.

    That is the cluster that ``RAY_ADDRESS`` names or that ``ray start`` last started here. It is
    never another run's own Ray, which Ray itself would find among this machine's processes.

    Raises
    ------
    UserError : there is none.
    """
    if address != AUTO:
        return address
    from ray._private.utils import read_ray_address  # importing Ray takes a second

    found = os.environ.get("RAY_ADDRESS") or read_ray_address()
    if not found:
        raise UserError(
            f"--ray-address: '{AUTO}' finds no Ray cluster on this machine; start one with 'ray "
            "start --head', or leave the option out to run without"
        )
    return str(found)


def check_address(address: str) -> None:
    """Check that a cluster listens at an address.

    Raises
    ------
    UserError : nothing listens there, or it is no valid address.
    """
    address = found_address(address)
    if not answers(address):
        raise UserError(
            f"--ray-address: nothing answers at {address}; start the cluster there with 'ray start "
            "--head', or leave the option out to run on this machine"
        )
