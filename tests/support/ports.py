"""Ports for the servers that tests start."""

from __future__ import annotations

import os
import random
import socket
from pathlib import Path

_LOWEST = 15000
_handed_out: set[int] = set()
# pytest-xdist's processes each have every n-th port: what one of them found free, another could take meanwhile.
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))


def free_port() -> int:
    """A loopback port that is free for TCP and UDP now, and handed out only once, by this process or one beside it.

    It lies below the range from which the kernel takes the ports of outgoing connections. From within that range a
    stopped server's port could go to any client before the server is back, or a client could connect to itself.
    """
    for _ in range(1000):
        port = random.randrange(_LOWEST + _worker, _first_ephemeral_port(), _workers)
        if port not in _handed_out and _is_free(port):
            _handed_out.add(port)
            return port
    raise RuntimeError("no free port found on 127.0.0.1")


def _first_ephemeral_port() -> int:
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    return low if low > _LOWEST + 1000 else 65536


def _is_free(port: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True
