"""Leases, timed by the server's clock."""

from __future__ import annotations

import itertools
from collections import OrderedDict, deque
from contextlib import suppress

from ssl_cert_server.errors import LeaseLost, StorageError
from ssl_cert_server.storage.base import Lease
from ssl_cert_server.storage.redis.client import Client
from ssl_cert_server.storage.redis.connection import Word
from ssl_cert_server.storage.redis.keys import Keys
from ssl_cert_server.storage.redis.scripts import ACQUIRE, RELEASE, RENEW

_BATCH = 1000

_MOST_GIVEN_UP = (10_000, 20)
"""Leases with calls that were given up, and such calls of each, in memory. What is dropped lapses by itself."""


class Leases:
    """Those of one instance."""

    def __init__(self, client: Client, keys: Keys, instance: str) -> None:
        self._client = client
        self._keys = keys
        self._instance = instance
        self._numbers = itertools.count()
        self._held: dict[str, int] = {}
        self._maybe: OrderedDict[str, deque[str]] = OrderedDict()
        """By lease, the calls whose reply was lost, or that nobody waited for."""

    async def acquire(self, name: str, seconds: float) -> Lease | None:
        names = [self._keys.lease(name), self._keys.last_token]
        call = f"{self._instance}:{next(self._numbers)}"
        args: list[Word] = [self._instance, call, round(seconds * 1000), *self._maybe.get(name, ())]
        try:
            token = await self._client.run(f"lease {name}", ACQUIRE, names, args)
        except BaseException:
            self._note_given_up(name, call)
            raise
        if token is None:
            return None
        self._maybe.pop(name, None)
        self._held[name] = int(token)
        return Lease(name, int(token))

    async def renew(self, lease: Lease, seconds: float) -> None:
        args: list[Word] = [str(lease.token), round(seconds * 1000)]
        if not await self._client.run(f"renew {lease.name}", RENEW, [self._keys.lease(lease.name)], args):
            self._forget(lease)
            raise LeaseLost(f"the lease {lease.name} was taken over by another instance")

    async def release(self, lease: Lease) -> None:
        names = [self._keys.lease(lease.name)]
        await self._client.run(f"release {lease.name}", RELEASE, names, ["token", str(lease.token)])
        self._forget(lease)

    async def release_all(self) -> None:
        """Give back what this instance holds; what can't be given back lapses by itself."""
        names = sorted(self._maybe.keys() | self._held.keys())
        with suppress(StorageError):
            for start in range(0, len(names), _BATCH):
                held = [self._keys.lease(name) for name in names[start : start + _BATCH]]
                await self._client.run("release leases", RELEASE, held, ["holder", self._instance])

    def _note_given_up(self, name: str, call: str) -> None:
        names, calls = _MOST_GIVEN_UP
        self._maybe.setdefault(name, deque(maxlen=calls)).append(call)
        if len(self._maybe) > names:
            self._maybe.popitem(last=False)

    def _forget(self, lease: Lease) -> None:
        if self._held.get(lease.name) == lease.token:
            del self._held[lease.name]
