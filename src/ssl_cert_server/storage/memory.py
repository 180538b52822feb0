"""Storage in the memory of one process: for tests, and the shortest statement of the contract in code."""

from __future__ import annotations

from collections.abc import AsyncIterator

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import LeaseLost
from ssl_cert_server.storage.base import Lease, check_key, check_value


class MemoryStorage:
    """See :class:`~ssl_cert_server.storage.base.Storage`; nothing survives the process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._values: dict[str, bytes] = {}
        self._leases: dict[str, tuple[int, float]] = {}
        self._last_token = 0

    async def get(self, key: str) -> bytes | None:
        check_key(key)
        return self._values.get(key)

    async def put(self, key: str, value: bytes, *, lease: Lease | None = None) -> None:
        check_key(key)
        check_value(key, value)
        self._check_lease(lease)
        self._values[key] = value

    async def delete(self, key: str, *, lease: Lease | None = None) -> None:
        check_key(key)
        self._check_lease(lease)
        self._values.pop(key, None)

    async def list(self, folder: str = "") -> AsyncIterator[str]:
        depth = len(check_key(folder)) if folder else 0
        prefix = f"{folder}/" if folder else ""
        for key in [*self._values]:
            if key.startswith(prefix) and key.count("/") == depth:
                yield key

    async def acquire(self, name: str, seconds: float) -> Lease | None:
        check_key(name)
        now = self._clock.monotonic()
        if name in self._leases and self._leases[name][1] > now:
            return None
        self._last_token += 1
        self._leases[name] = (self._last_token, now + seconds)
        return Lease(name, self._last_token)

    async def renew(self, lease: Lease, seconds: float) -> None:
        self._check_lease(lease)
        self._leases[lease.name] = (lease.token, self._clock.monotonic() + seconds)

    async def release(self, lease: Lease) -> None:
        if self._leases.get(lease.name, (0, 0.0))[0] == lease.token:
            del self._leases[lease.name]

    async def check_writable(self) -> None:
        """Memory always is."""

    async def close(self) -> None:
        """Nothing is held."""

    def _check_lease(self, lease: Lease | None) -> None:
        if lease is not None and self._leases.get(lease.name, (0, 0.0))[0] != lease.token:
            raise LeaseLost(f"the lease {lease.name} was taken over by another instance")
