"""Plans what is stored and not planned: where an index was lost, or a clock was wrong, or somebody put it there."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import NotPermitted, StorageError
from ssl_cert_server.model import Certificate, Subject
from ssl_cert_server.renewal.mending import Mending
from ssl_cert_server.renewal.plan import RenewalPlan, Stored, rank_of
from ssl_cert_server.renewal.schedule import CLOCKS_DIFFER
from ssl_cert_server.renewal.worker import Renewables
from ssl_cert_server.service.records import IssuedRecord
from ssl_cert_server.service.remembered import RememberedNames
from ssl_cert_server.storage.base import Due, Storage
from ssl_cert_server.storage.leasing import leased

_log = structlog.get_logger()

_LEASE = "renewal-index"
_REMEDY = "see that every instance's clock is right; what is stored and was planned by a wrong one is planned anew"
_AFTER_ERROR = 60.0
_LOOK_EVERY = 60.0
_REMEMBERED = 100_000
_REMEMBERED_FOR = 86_400.0
_WAITING = 10_000
_MOST_UNREAD = 1_000
"""More are no matter of single certificates: all of it is tried again later."""


class IndexRebuild:
    """Reads every stored certificate where the index is not complete, or a clock was ahead, and plans what isn't."""

    def __init__(self, plan: RenewalPlan, certificates: Renewables, storage: Storage, clock: Clock) -> None:
        self._marks = plan.marks
        self._mending = Mending(plan, storage, clock)
        self._certificates = certificates
        self._storage = storage
        self._clock = clock

    async def run(self) -> None:
        """Look every minute, for ever: the index may be lost while the server runs, and a clock set."""
        while True:
            try:
                needed, _ = await self._look()
                if needed:
                    await self.rebuild()
            except StorageError as error:
                _log.error("renewal.scan_failed", reason=str(error))
            await self._clock.sleep(_LOOK_EVERY * (1 + self._clock.random()))

    async def rebuild(self) -> None:
        """Plan everything that is stored and not planned, unless another instance has just done that.

        What can't be read is tried again, and keeps nothing else from being planned.

        :raises StorageError: keys can't be listed, very many can't be read, or the plan can't be kept.
        """
        unread = list[str]()
        async with leased(self._storage, _LEASE, self._clock):
            needed, ahead = await self._look()
            if not needed:
                return
            if ahead:
                _log.error("renewal.clock_was_ahead", hours=self._hours(ahead), remedy=_REMEDY)
            await self._marks.note()
            found = 0
            async for cert_key in self._storage.list():
                found += await self._plan_one(cert_key, unread)
            if not unread:
                await self._finish(found, ahead)
                return
        # Another instance may be able to read them: it need not wait for this one.
        while unread:
            await self._clock.sleep(_AFTER_ERROR)
            again, unread = unread, []
            for cert_key in again:
                found += await self._plan_one(cert_key, unread)
        await self._finish(found, ahead)

    async def _look(self) -> tuple[bool, Sequence[Due]]:
        """Tell whether there is something to do, and give the marks of clocks that were ahead."""
        # Backends take note of the index that is there now: another one must not be marked in its place.
        complete, ahead = await self._storage.index_complete(), await self._marks.ahead()
        return not complete or bool(ahead), ahead

    async def _finish(self, found: int, ahead: Sequence[Due]) -> None:
        await self._storage.mark_index_complete()
        await self._marks.looked_through(ahead)
        _log.info("renewal.index_rebuilt", certificates=found)

    def _hours(self, ahead: Sequence[Due]) -> int:
        return round((max(mark.at for mark in ahead) - self._clock.now()) / 3600)

    async def _plan_one(self, cert_key: str, unread: list[str]) -> bool:
        try:
            stored = await self._certificates.find(cert_key)
        except NotPermitted:
            return False
        except StorageError as error:
            if len(unread) >= _MOST_UNREAD:
                raise
            _log.error("renewal.unreadable", cert_key=cert_key, reason=str(error))
            unread.append(cert_key)
            return False
        if stored is not None:
            await self._mending.mend(stored)
        return stored is not None


class SeenCertificates:
    """Plans certificates that were read and that nobody planned, as they were put there by hand.

    Each is looked up once a day at most.
    """

    def __init__(self, plan: RenewalPlan, storage: Storage, clock: Clock) -> None:
        self._plan = plan
        self._mending = Mending(plan, storage, clock)
        self._clock = clock
        self._known = RememberedNames(clock, _REMEMBERED)
        self._waiting: asyncio.Queue[Due] = asyncio.Queue(_WAITING)

    def seen(self, subject: Subject, certificate: Certificate) -> None:
        """Hear of a certificate that was read; while very many are, some are left for another time."""
        if subject.cert_key not in self._known and not self._waiting.full():
            self._known.add(subject.cert_key, _REMEMBERED_FOR)
            usual = Stored(subject, certificate, IssuedRecord())
            latest = self._plan.due_at(usual, chance=1.0)
            self._waiting.put_nowait(Due(subject.cert_key, latest, rank_of(usual)))

    async def run(self, certificates: Renewables) -> None:
        """Look after what was seen, for ever."""
        while True:
            latest = await self._waiting.get()
            try:
                await self._look_after(latest, certificates)
            except (NotPermitted, StorageError) as error:
                self._known.drop(latest.key)
                _log.warning("renewal.not_scheduled", cert_key=latest.key, reason=str(error))

    async def _look_after(self, latest: Due, certificates: Renewables) -> None:
        entry = await self._mending.renewal(latest.key)
        soon = self._clock.now() + CLOCKS_DIFFER
        if entry is not None and entry.rank == latest.rank and entry.at <= max(latest.at, soon):
            return
        stored = await certificates.find(latest.key)
        if stored is not None:
            await self._mending.mend(stored)
