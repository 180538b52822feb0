"""Leases: rows that stay when they lapse, timed by the server's clock."""

from __future__ import annotations

import itertools
import uuid

from ssl_cert_server.errors import LeaseLost
from ssl_cert_server.storage.base import Lease, check_key
from ssl_cert_server.storage.postgres.connections import Connections

# The owner is the instance and the seconds that its lease lasts. These have no column of their own: an older server on
# the same tables would leave what the lease before its own had there, and doesn't know them at all after a migration.
_ACQUIRE = """
INSERT INTO leases AS held (name, token, owner, until, released)
VALUES (%(name)s, token_after(0), %(instance)s || ' ' || %(seconds)s,
    clock_timestamp() + make_interval(secs => %(seconds)s), false)
ON CONFLICT (name) DO UPDATE SET token = token_after(held.token), owner = excluded.owner,
    until = clock_timestamp() + make_interval(secs => %(seconds)s), released = false
WHERE held.released OR held.until <= clock_timestamp()
RETURNING token
"""
# Further off than it lasts: the clock was set back, and a dead holder would keep the lease for as long as that step.
_SHORTEN = """
UPDATE leases SET until = clock_timestamp() + make_interval(secs => split_part(owner, ' ', 2)::float8)
WHERE name = %(name)s AND NOT released
    AND until > clock_timestamp() + make_interval(secs => nullif(split_part(owner, ' ', 2), '')::float8)
"""
_RENEW = """
UPDATE leases SET owner = split_part(owner, ' ', 1) || ' ' || %(seconds)s,
    until = clock_timestamp() + make_interval(secs => %(seconds)s)
WHERE name = %(name)s AND token = %(token)s AND NOT released
RETURNING 1
"""
_RELEASE = """
UPDATE leases SET released = true, until = clock_timestamp()
WHERE name = %(name)s AND token = %(token)s AND NOT released
"""
_RELEASE_ALL = """
UPDATE leases SET released = true, until = clock_timestamp()
WHERE name = ANY(%(names)s) AND split_part(owner, ' ', 1) = %(instance)s AND NOT released
"""
_SWEEP = "SELECT sweep_leases(%(most)s)"

_SWEEP_EVERY = 50
_SWEPT_AT_ONCE = 200


class Leases:
    """The leases of one instance."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._instance = uuid.uuid4().hex
        self._held: dict[str, int] = {}
        """Tokens by name; 0 where nobody knows whether it was given, because the call was cancelled or failed."""
        self._taken = itertools.count(1)

    async def acquire(self, name: str, seconds: float) -> Lease | None:
        check_key(name)
        if next(self._taken) % _SWEEP_EVERY == 0:
            await self._connections.fetch("sweep leases", _SWEEP, {"most": _SWEPT_AT_ONCE})
        self._held.setdefault(name, 0)
        values = {"name": name, "instance": self._instance, "seconds": float(seconds)}
        rows = await self._connections.fetch(f"lease {name}", _ACQUIRE, values)
        if not rows:
            if self._held.get(name) == 0:
                del self._held[name]
            await self._connections.fetch(f"lease {name}", _SHORTEN, {"name": name})
            return None
        self._held[name] = rows[0][0]
        return Lease(name, rows[0][0])

    async def renew(self, lease: Lease, seconds: float) -> None:
        values = {"name": lease.name, "token": lease.token, "seconds": float(seconds)}
        if not await self._connections.fetch(f"renew the lease {lease.name}", _RENEW, values):
            raise lost(lease)

    async def release(self, lease: Lease) -> None:
        values = {"name": lease.name, "token": lease.token}
        await self._connections.fetch(f"release the lease {lease.name}", _RELEASE, values)
        if self._held.get(lease.name) == lease.token:
            del self._held[lease.name]

    async def release_all(self) -> None:
        """Give back whatever this instance holds, or may hold."""
        if self._held:
            values = {"names": [*self._held], "instance": self._instance}
            await self._connections.fetch("release the leases", _RELEASE_ALL, values)
            self._held.clear()


def lost(lease: Lease) -> LeaseLost:
    """What a call under this lease has to raise."""
    return LeaseLost(f"the lease {lease.name} was taken over by another instance, or given back")
