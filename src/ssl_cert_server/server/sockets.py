"""Listening sockets, bound before anything is started, with errors that say what to do."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Sequence
from pathlib import Path

from ssl_cert_server.config.addresses import ListenAddress, UnixAddress
from ssl_cert_server.errors import StartError

_BACKLOG = 2048
_SEND_BUFFER = 64 * 1024
"""Bytes in the kernel for each connection. By itself it grows to megabytes for a client that doesn't read."""

_REMEDIES = {
    errno.EADDRINUSE: "stop what uses it, or change listen",
    errno.ENOENT: "create the directory of the socket, or change listen",
    errno.ENOTDIR: "a file is in the place of a directory: move it away, or change listen",
    errno.EACCES: "let the server's user listen there (ports below 1024 need CAP_NET_BIND_SERVICE), or change listen",
    errno.EADDRNOTAVAIL: "no interface of this machine has the address: change listen",
}

# The owner and the group: private keys pass through, so the web server's group is given in so many words.
_UNIX_MODE = 0o660


def bind(addresses: Sequence[ListenAddress]) -> list[socket.socket]:
    """Bind and listen on every address.

    :raises StartError: one of them is taken or not ours; none stays bound.
    """
    bound: list[socket.socket] = []
    for address in addresses:
        try:
            bound.append(_bind(address))
            bound[-1].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)  # connections inherit it
        except OSError as error:
            for listener in bound:
                listener.close()
            # Python's own words repeat the address; a failed look-up of the host has no errno of the system's.
            reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
            remedy = _REMEDIES.get(error.errno or 0, "change listen")
            raise StartError(f"can't listen on {address}: {reason}; {remedy}") from error
    return bound


def _bind(address: ListenAddress) -> socket.socket:
    if isinstance(address, UnixAddress):
        return _bind_unix(address.path)
    if not address.host:
        dual_stack = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual_stack else socket.AF_INET
        return socket.create_server(
            ("", address.port), family=family, backlog=_BACKLOG, dualstack_ipv6=dual_stack, reuse_port=False
        )
    family = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0][0]
    return socket.create_server((address.host, address.port), family=family, backlog=_BACKLOG)


def _bind_unix(path: Path) -> socket.socket:
    _remove_dead_socket(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Created closed to everybody, then opened as far as it should be.
        previous = os.umask(0o777)
        try:
            listener.bind(str(path))
        finally:
            os.umask(previous)
        path.chmod(_UNIX_MODE)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _remove_dead_socket(path: Path) -> None:
    """Remove a socket that a killed server left; one that answers is in use, and binding then fails by itself."""
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
