"""Copies one storage into another: values and the due index, not leases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ssl_cert_server.errors import NotOpened, StorageError
from ssl_cert_server.server.upkeep.kept import QUEUES, Kept
from ssl_cert_server.server.upkeep.streams import batches, side_by_side
from ssl_cert_server.storage.base import Due, Storage
from ssl_cert_server.storage.write_watch import is_probe

_SCHEDULED_TOGETHER = 500


@dataclass(slots=True)
class Counts:
    """What became of values and of entries of the due index."""

    copied: int = 0
    same: int = 0
    replaced: int = 0
    different: int = 0
    unreadable: int = 0
    scheduled: int = 0

    @property
    def complete(self) -> bool:
        """Whether the target holds all that the source holds."""
        return not self.different and not self.unreadable


@dataclass(slots=True)
class StorageCopy:
    """Copies ``source`` into ``target``; what is there already with equal bytes is left alone.

    What is there with other bytes is replaced with ``overwrite`` only. ``tell`` gets a line for everything that was
    not copied, ``step`` is called for every value.
    """

    source: Storage
    target: Storage
    kept: Kept
    tell: Callable[[str], None]
    step: Callable[[], None]
    overwrite: bool = False
    counts: Counts = field(default_factory=Counts)
    _was_empty: bool = False

    async def check_empty(self) -> None:
        """Refuse a target that holds anything.

        :raises StorageError: it does, or can't be read.
        """
        async for key in self.kept.keys(self.target):
            raise self._not_empty(key)
        for queue in QUEUES:
            async for entry in self.target.list_due(queue):
                raise self._not_empty(f"{entry.key} in the queue {queue}")
        self._was_empty = True

    async def run(self) -> Counts:
        """Copy everything; interrupted, it can be run again.

        :raises StorageError: one of the two can't be read or written any more.
        """
        await self.target.index_complete()  # so that an index which is lost meanwhile isn't marked in its place
        for folder in await self.kept.folders(self.source):
            await side_by_side(self.source.list(folder), self._copy)
        for queue in QUEUES:
            async for entries in batches(self.source.list_due(queue), _SCHEDULED_TOGETHER):
                await self._schedule(queue, entries)
        # What a target that wasn't empty had of its own may be in no queue; its servers look then.
        if self._was_empty and await self.source.index_complete():
            await self.target.mark_index_complete()
        return self.counts

    async def _copy(self, key: str) -> None:
        self.step()
        if is_probe(key):
            return
        try:
            value = await self.source.get(key)
            there = await self.target.get(key)
        except NotOpened as error:
            self.counts.unreadable += 1
            self.tell(str(error))
            return
        if value is None:
            return  # removed meanwhile
        if there == value:
            self.counts.same += 1
        elif there is None:
            await self.target.put(key, value)
            self.counts.copied += 1
        elif self.overwrite:
            await self.target.put(key, value)
            self.counts.replaced += 1
        else:
            self.counts.different += 1
            self.tell(f"{key}: another value is there already; --overwrite replaces it")

    async def _schedule(self, queue: str, entries: list[Due]) -> None:
        lasting = [entry for entry in entries if not is_probe(entry.key)]
        wanted = [entry for entry in lasting if self.overwrite or not await self.target.scheduled(queue, entry.key)]
        await self.target.schedule(queue, wanted)
        self.counts.scheduled += len(wanted)

    def _not_empty(self, what: str) -> StorageError:
        return StorageError(
            f"the target isn't empty: {what} is there. --resume copies what is missing, --overwrite also replaces "
            "what differs"
        )
