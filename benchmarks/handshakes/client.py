"""Handshakes without a pause, from processes of their own."""

from __future__ import annotations

import multiprocessing
import socket
import ssl
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from types import TracebackType
from typing import Self

Work = tuple[int, Sequence[str], float]
"""A port, the names to ask it for in turn, and seconds (0: each name once)."""


class Clients:
    """So many processes; a context manager."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._pool = ProcessPoolExecutor(number, multiprocessing.get_context("spawn"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._pool.shutdown()

    def shake(self, port: int, names: Sequence[str], seconds: float = 0.0) -> int:
        """Make handshakes for so long, or one for each name; gives how many.

        :raises ssl.SSLError: one failed.
        """
        shares = [names[start :: self._number] or names for start in range(self._number)]
        return sum(self._pool.map(_shake, [(port, share, seconds) for share in shares]))


def _shake(work: Work) -> int:
    port, names, seconds = work
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    end, made = time.monotonic() + seconds, 0
    while (time.monotonic() < end) if seconds else (made < len(names)):
        with (
            socket.create_connection(("127.0.0.1", port), timeout=60) as connection,
            context.wrap_socket(connection, server_hostname=names[made % len(names)]),
        ):
            made += 1
    return made
