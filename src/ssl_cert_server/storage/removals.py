"""Removal records: which values were removed on purpose, so that no instance writes them back.

A record is stored under ``_removed/<key>`` before the value is deleted. It maps fingerprints (of certificates; of
account keys, a digest) to the Unix time at which the removed value expires by itself: until then the record is needed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import structlog

from ssl_cert_server.clock import Clock
from ssl_cert_server.storage.base import Lease, Storage
from ssl_cert_server.storage.passed_over import PassedOver

_log = structlog.get_logger()

FOLDER = "_removed"
_PREFIX = f"{FOLDER}/"
_LEASE = 30.0
_MOST = 20
"""Fingerprints in one record; of more, those that expire last stay."""


async def load_removals(storage: Storage, key: str) -> dict[str, float]:
    """Read the fingerprints of the values that were removed from ``key``; a broken record counts as none.

    :raises StorageError: it can't be read.
    """
    stored = await storage.get(record_key(key))
    if stored is None:
        return {}
    try:
        return {str(fingerprint): float(until) for fingerprint, until in json.loads(stored).items()}
    except (ValueError, TypeError, AttributeError):
        _log.warning("removal.unreadable", cert_key=key, remedy="it is ignored, and replaced at the next removal")
        return {}


async def save_removals(
    storage: Storage, key: str, removals: Mapping[str, float], *, now: float, lease: Lease | None = None
) -> None:
    """Add ``removals`` to the record of ``key``, and drop what has expired from it.

    :raises StorageError: it can't be read or written.
    """
    before = await load_removals(storage, key)
    after = {fingerprint: until for fingerprint, until in (before | {**removals}).items() if until > now}
    last = sorted(after.items(), key=lambda item: item[1])[-_MOST:]
    if dict(last) != before:
        await storage.put(record_key(key), json.dumps(dict(last)).encode(), lease=lease)


def record_key(key: str) -> str:
    """Return the storage key of the record for ``key``."""
    return _PREFIX + key


def removed_from(record: str) -> str | None:
    """Return the key that a record's storage key is about; None where it is no record's."""
    return record.removeprefix(_PREFIX) if record.startswith(_PREFIX) else None


class RemovalSweep:
    """Deletes the records whose removed values have all expired."""

    def __init__(self, storage: Storage, clock: Clock) -> None:
        self._storage = storage
        self._clock = clock

    async def sweep(self) -> None:
        """Delete the expired records of certificates; those of accounts, one or two for each CA, stay.

        :raises StorageError: storage itself can't be read or written.
        """
        passed = PassedOver()
        async for record in self._storage.list(FOLDER):
            with passed.unreadable():
                if await self._is_stale(record):
                    await self._delete(record)
        passed.tell(FOLDER)

    async def _delete(self, record: str) -> None:
        """Look again under the lease that a removal takes: something may have been added just now."""
        lease = await self._storage.acquire(f"certificates/{record.removeprefix(_PREFIX)}", _LEASE)
        if lease is None:
            return
        try:
            if await self._is_stale(record):
                await self._storage.delete(record, lease=lease)
        finally:
            await self._storage.release(lease)

    async def _is_stale(self, record: str) -> bool:
        removals = await load_removals(self._storage, record.removeprefix(_PREFIX))
        return all(until <= self._clock.now() for until in removals.values())
