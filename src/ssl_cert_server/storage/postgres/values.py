"""Keys and bytes."""

from __future__ import annotations

from collections.abc import AsyncIterator

from ssl_cert_server.storage.base import Lease, check_key, check_value
from ssl_cert_server.storage.postgres.connections import Connections
from ssl_cert_server.storage.postgres.leases import lost

_GET = "SELECT value FROM kept WHERE folder = %(folder)s AND name = %(name)s"
_PUT = """
INSERT INTO kept (folder, name, value)
SELECT %(folder)s, %(name)s, %(value)b WHERE in_time(%(by)s)
ON CONFLICT (folder, name) DO UPDATE SET value = excluded.value
RETURNING 1
"""
_DELETE = "DELETE FROM kept WHERE folder = %(folder)s AND name = %(name)s AND in_time(%(by)s)"

# The lease's row is locked until the commit: who wants to take it over waits until this is written.
_PUT_UNDER = """
WITH held AS MATERIALIZED (
    SELECT FROM leases WHERE name = %(lease)s AND token = %(token)s AND NOT released FOR SHARE
)
INSERT INTO kept (folder, name, value) SELECT %(folder)s, %(name)s, %(value)b FROM held WHERE in_time(%(by)s)
ON CONFLICT (folder, name) DO UPDATE SET value = excluded.value
RETURNING 1
"""
_DELETE_UNDER = """
WITH held AS MATERIALIZED (
    SELECT FROM leases WHERE name = %(lease)s AND token = %(token)s AND NOT released FOR SHARE
), gone AS (
    DELETE FROM kept USING held WHERE folder = %(folder)s AND kept.name = %(name)s AND in_time(%(by)s)
)
SELECT 1 FROM held
"""
_LIST = """
SELECT name FROM kept WHERE folder = %(folder)s AND name > %(after)s ORDER BY name LIMIT %(most)s
"""
_BATCH = 1000


class Values:
    """What is kept under keys."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def get(self, key: str) -> bytes | None:
        rows = await self._connections.fetch(f"read {key}", _GET, _place(key))
        return rows[0][0] if rows else None

    async def put(self, key: str, value: bytes, lease: Lease | None) -> None:
        values = {**_place(key), "value": value}
        check_value(key, value)
        if lease is None:
            await self._connections.fetch(f"write {key}", _PUT, values)
        elif not await self._connections.fetch(f"write {key}", _PUT_UNDER, values | _fence(lease)):
            raise lost(lease)

    async def delete(self, key: str, lease: Lease | None) -> None:
        values = _place(key)
        if lease is None:
            await self._connections.fetch(f"delete {key}", _DELETE, values)
        elif not await self._connections.fetch(f"delete {key}", _DELETE_UNDER, values | _fence(lease)):
            raise lost(lease)

    async def list(self, folder: str) -> AsyncIterator[str]:
        if folder:
            check_key(folder)
        prefix, after = f"{folder}/" if folder else "", ""
        while True:
            values = {"folder": folder, "after": after, "most": _BATCH}
            rows = await self._connections.fetch(f"list {folder or 'the top level'}", _LIST, values)
            for (name,) in rows:
                yield prefix + name
            if len(rows) < _BATCH:
                return
            after = rows[-1][0]


def _place(key: str) -> dict[str, object]:
    check_key(key)
    folder, _, name = key.rpartition("/")
    return {"folder": folder, "name": name}


def _fence(lease: Lease) -> dict[str, object]:
    return {"lease": lease.name, "token": lease.token}
