"""Python imports this first, in every process of a run: it notes and refuses all but loopback.

Put its folder on PYTHONPATH and name a file in ATTEMPTS; each line of it is one attempt.
"""

import errno
import ipaddress
import os
import socket

NAMES = ("localhost", "ip6-localhost", "ip6-loopback", "")


def _is_local(host):
    host = host.decode() if isinstance(host, bytes) else host
    if host is None or host in NAMES:
        return True
    try:
        address = ipaddress.ip_address(host.split("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback or address.is_unspecified


def _note(what, host):
    with open(os.environ["ATTEMPTS"], "a", encoding="utf-8") as file:
        file.write(f"{what} {host}\n")
    raise OSError(errno.ENETUNREACH, f"refused in this test: {what} {host}")


def _watched(what, call, place):
    """Return a method or function that looks at its address first."""

    def watched(*arguments, **options):
        address = arguments[place] if len(arguments) > place else options.get("host")
        if what in ("connect", "connect_ex", "sendto"):
            own = arguments[0]
            if own.family not in (socket.AF_INET, socket.AF_INET6):
                return call(*arguments, **options)
            address = arguments[-1][0]
        if not _is_local(address):
            kind = " udp" if what == "connect" and arguments[0].type & socket.SOCK_DGRAM else ""
            _note(what + kind, address)
        return call(*arguments, **options)

    return watched


if os.environ.get("ATTEMPTS"):
    for name in ("connect", "connect_ex", "sendto"):
        setattr(socket.socket, name, _watched(name, getattr(socket.socket, name), 1))
    for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
        setattr(socket, name, _watched(name, getattr(socket, name), 0))
