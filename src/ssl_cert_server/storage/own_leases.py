"""Storage wrapper that releases what this instance could not release before it takes the same lease again."""

from __future__ import annotations

from collections import OrderedDict

from ssl_cert_server.storage.base import Lease, Storage
from ssl_cert_server.storage.wrapper import StorageWrapper

_MOST_LEFT = 10_000
"""Leases that could not be released, in memory; the oldest have lapsed long since."""


class OwnLeases(StorageWrapper):
    """``inner``, in which a lease that could not be released doesn't keep this instance from taking it again.

    Where storage fails at the release, and works again before the lease lapses, the lease would otherwise exclude the
    very instance that left it. The next one has a new fencing token, so that no late write of the former holder counts.
    """

    def __init__(self, inner: Storage) -> None:
        super().__init__(inner)
        self._left: OrderedDict[str, Lease] = OrderedDict()

    async def acquire(self, name: str, seconds: float) -> Lease | None:
        left = self._left.pop(name, None)
        if left is not None:
            await self.release(left)
        return await self._inner.acquire(name, seconds)

    async def release(self, lease: Lease) -> None:
        try:
            await self._inner.release(lease)
        except BaseException:
            self._left[lease.name] = lease
            if len(self._left) > _MOST_LEFT:
                self._left.popitem(last=False)
            raise
