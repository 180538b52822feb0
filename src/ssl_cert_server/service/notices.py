"""Telling running instances that a certificate was replaced or removed by a command, not by one of them."""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable

import structlog

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import StorageError
from ssl_cert_server.storage.base import Storage

_log = structlog.get_logger()

_FOLDER = "_notices"
_LOOK_EVERY = 5.0
_KEPT = 3600.0
"""Seconds; an instance that could not look for so long has other worries, and reads storage when it starts."""


async def post_notice(storage: Storage, clock: Clock, cert_key: str) -> None:
    """Have every running instance read ``cert_key`` again.

    :raises StorageError: the notice can't be written.
    """
    notice = {"cert_key": cert_key, "posted": clock.now()}
    await storage.put(f"{_FOLDER}/{secrets.token_hex(8)}", json.dumps(notice).encode())


class Notices:
    """Reads notices; ``on_notice`` is awaited with the ``cert_key`` of each, once in this instance."""

    def __init__(self, storage: Storage, clock: Clock, on_notice: Callable[[str], Awaitable[None]]) -> None:
        self._storage = storage
        self._clock = clock
        self._on_notice = on_notice
        self._seen: set[str] = set()

    async def watch(self) -> None:
        """Look every few seconds, for ever."""
        while True:
            try:
                await self._look()
            except StorageError as error:
                _log.warning("notices.unreadable", reason=str(error))
            await self._clock.sleep(_LOOK_EVERY * (1 + self._clock.random() / 4))

    async def _look(self) -> None:
        there = {key async for key in self._storage.list(_FOLDER)}
        self._seen &= there
        for key in there - self._seen:
            cert_key, posted = _parse(await self._storage.get(key))
            if abs(self._clock.now() - posted) > _KEPT:
                await self._storage.delete(key)
            else:
                await self._on_notice(cert_key)
                self._seen.add(key)


def _parse(stored: bytes | None) -> tuple[str, float]:
    try:
        notice = json.loads(stored or b"")
        return str(notice["cert_key"]), float(notice["posted"])
    except (ValueError, TypeError, KeyError):
        return "", 0.0
