"""What instances that were killed left behind among the answers to challenges."""

from __future__ import annotations

import json

from ssl_cert_server.clock import Clock
from ssl_cert_server.storage.base import Storage

# Far longer than any CA leaves an authorization pending that somebody still works on.
_LEFT_OVER_AFTER = 7 * 86_400.0


async def remove_left_over(storage: Storage, folder: str, clock: Clock) -> None:
    """Remove the records of a folder that are over a week old, by their ``created``, or that make no sense.

    :raises StorageError: storage can't be read or written now.
    """
    async for key in storage.list(folder):
        created = _created(await storage.get(key))
        if created is None or created < clock.now() - _LEFT_OVER_AFTER:
            await storage.delete(key)


def _created(stored: bytes | None) -> float | None:
    try:
        return float(json.loads(stored or b"")["created"])
    except (ValueError, TypeError, KeyError):
        return None
