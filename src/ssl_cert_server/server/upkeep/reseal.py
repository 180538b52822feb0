"""Writes every stored value anew: sealed with the first key, or unsealed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import LeaseLost, NotOpened
from ssl_cert_server.server.upkeep.kept import Kept, one_at_a_time, shares_a_lease
from ssl_cert_server.server.upkeep.streams import SIDE_BY_SIDE, batches, side_by_side
from ssl_cert_server.storage.leasing import leased
from ssl_cert_server.storage.sealed import SealedStorage

PATIENCE = 30.0
"""Seconds that a value is waited for which a server is about to write."""

_UNDER_ONE_LEASE = 50


@dataclass(slots=True)
class Counts:
    """What became of the values."""

    rewritten: int = 0
    current: int = 0
    busy: int = 0
    unreadable: int = 0

    @property
    def complete(self) -> bool:
        """Whether every value is as it should be."""
        return not self.busy and not self.unreadable


@dataclass(slots=True)
class Reseal:
    """Rewrites what isn't as ``storage`` would write it now, each value in one step, under its lease.

    So it may be interrupted and run again, and servers may go on meanwhile. ``tell`` gets a line for everything that
    was left as it was, ``step`` is called for every value.
    """

    storage: SealedStorage
    kept: Kept
    clock: Clock
    tell: Callable[[str], None]
    step: Callable[[], None]
    counts: Counts = field(default_factory=Counts)

    async def run(self) -> Counts:
        """Rewrite everything that needs it.

        :raises StorageError: storage can't be read or written any more.
        """
        for folder in await self.kept.folders(self.storage):
            keys = batches(self.storage.list(folder), _UNDER_ONE_LEASE if shares_a_lease(folder) else 1)
            await side_by_side(keys, self._rewrite, 1 if one_at_a_time(folder) else SIDE_BY_SIDE)
        return self.counts

    async def _rewrite(self, keys: list[str]) -> None:
        """Rewrite values that are all written under the same lease."""
        stale = []
        for key in keys:
            self.step()
            if await self.storage.is_current(key):
                self.counts.current += 1
            else:
                stale.append(key)
        if not stale:
            return
        done = 0
        name = self.kept.lease(stale[0])
        try:
            async with asyncio.timeout(PATIENCE) as waiting, leased(self.storage, name, self.clock) as lease:
                waiting.reschedule(None)
                for key in stale:
                    try:
                        await self.storage.rewrite(key, lease=lease)
                        self.counts.rewritten += 1
                    except NotOpened as error:
                        self.counts.unreadable += 1
                        self.tell(str(error))
                    done += 1
        except (TimeoutError, LeaseLost):
            self.counts.busy += len(stale) - done
            for key in stale[done:]:
                self.tell(f"{key}: a server is at work on it; run this again")
