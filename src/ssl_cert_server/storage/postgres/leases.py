"""Leases: rows that stay when they lapse, timed by the server's clock."""

from __future__ import annotations

import itertools
import uuid

from ssl_cert_server.errors import LeaseLost
from ssl_cert_server.storage.base import Lease, check_key
from ssl_cert_server.storage.postgres.connections import Connections

_ACQUIRE = """
INSERT INTO leases AS held (name, token, owner, until, released)
VALUES (%(name)s, token_after(0), %(owner)s, clock_timestamp() + make_interval(secs => %(seconds)s), false)
ON CONFLICT (name) DO UPDATE SET token = token_after(held.token), owner = excluded.owner,
    until = clock_timestamp() + make_interval(secs => %(seconds)s), released = false
WHERE held.released OR held.until <= clock_timestamp()
RETURNING token
"""
_RENEW = """
UPDATE leases SET until = clock_timestamp() + make_interval(secs => %(seconds)s)
WHERE name = %(name)s AND token = %(token)s AND NOT released
RETURNING 1
"""
_RELEASE = """
UPDATE leases SET released = true, until = clock_timestamp()
WHERE name = %(name)s AND token = %(token)s AND NOT released
"""
_RELEASE_ALL = """
UPDATE leases SET released = true, until = clock_timestamp()
WHERE name = ANY(%(names)s) AND owner = %(owner)s AND NOT released
"""
_SWEEP = "SELECT sweep_leases(%(most)s)"

_SWEEP_EVERY = 50
_SWEPT_AT_ONCE = 200


class Leases:
    """The leases of one instance."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._owner = uuid.uuid4().hex
        self._held: dict[str, int] = {}
        """Tokens by name; 0 where nobody knows whether it was given, because the call was cancelled or failed."""
        self._taken = itertools.count(1)

    async def acquire(self, name: str, seconds: float) -> Lease | None:
        check_key(name)
        if next(self._taken) % _SWEEP_EVERY == 0:
            await self._connections.fetch("sweep leases", _SWEEP, {"most": _SWEPT_AT_ONCE})
        self._held.setdefault(name, 0)
        values = {"name": name, "owner": self._owner, "seconds": float(seconds)}
        rows = await self._connections.fetch(f"lease {name}", _ACQUIRE, values)
        if not rows:
            if self._held.get(name) == 0:
                del self._held[name]
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
            values = {"names": [*self._held], "owner": self._owner}
            await self._connections.fetch("release the leases", _RELEASE_ALL, values)
            self._held.clear()


def lost(lease: Lease) -> LeaseLost:
    """What a call under this lease has to raise."""
    return LeaseLost(f"the lease {lease.name} was taken over by another instance, or given back")
