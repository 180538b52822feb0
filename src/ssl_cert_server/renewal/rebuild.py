"""Plans what is stored and not planned: all of it where the index was lost, and what was put there by hand."""

from __future__ import annotations

import asyncio

import structlog

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import NotPermitted, StorageError
from ssl_cert_server.model import Certificate, Subject
from ssl_cert_server.renewal.plan import PARKED, RENEWALS, RenewalPlan
from ssl_cert_server.renewal.worker import Renewables
from ssl_cert_server.service.remembered import RememberedNames
from ssl_cert_server.storage.base import Storage

_log = structlog.get_logger()

_AFTER_ERROR = 60.0
_LOOK_EVERY = 60.0
_REMEMBERED = 100_000
_REMEMBERED_FOR = 86_400.0
_WAITING = 10_000
_MOST_UNREAD = 1_000
"""More are no matter of single certificates: all of it is tried again later."""


class IndexRebuild:
    """Reads every stored certificate where the index is not complete, and plans it."""

    def __init__(self, plan: RenewalPlan, certificates: Renewables, storage: Storage, clock: Clock) -> None:
        self._plan = plan
        self._certificates = certificates
        self._storage = storage
        self._clock = clock

    async def run(self) -> None:
        """Look every minute, for ever: the index may be lost while the server runs."""
        while True:
            try:
                if not await self._storage.index_complete():
                    await self.rebuild()
            except StorageError as error:
                _log.error("renewal.scan_failed", reason=str(error))
            await self._clock.sleep(_LOOK_EVERY * (1 + self._clock.random()))

    async def rebuild(self) -> int:
        """Plan everything that is stored, and give how many certificates that are.

        What can't be read is tried again, and keeps nothing else from being planned.

        :raises StorageError: keys can't be listed, very many can't be read, or the plan can't be kept.
        """
        planned, unread = 0, list[str]()
        async for cert_key in self._storage.list():
            if await self._plan_one(cert_key, unread):
                planned += 1
        while unread:
            await self._clock.sleep(_AFTER_ERROR)
            again, unread = unread, []
            for cert_key in again:
                planned += await self._plan_one(cert_key, unread)
        await self._storage.mark_index_complete()
        _log.info("renewal.index_rebuilt", certificates=planned)
        return planned

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
            await self._plan.add(stored)
        return stored is not None


class SeenCertificates:
    """Plans certificates that were read and that nobody planned, as they were put there by hand.

    Each is looked up once a day at most.
    """

    def __init__(self, plan: RenewalPlan, storage: Storage, clock: Clock) -> None:
        self._plan = plan
        self._storage = storage
        self._known = RememberedNames(clock, _REMEMBERED)
        self._waiting: asyncio.Queue[tuple[str, int]] = asyncio.Queue(_WAITING)

    def seen(self, subject: Subject, certificate: Certificate) -> None:
        """Hear of a certificate that was read; while very many are, some are left for another time."""
        if subject.cert_key not in self._known and not self._waiting.full():
            self._known.add(subject.cert_key, _REMEMBERED_FOR)
            self._waiting.put_nowait((subject.cert_key, certificate.not_after))

    async def run(self, certificates: Renewables) -> None:
        """Look after what was seen, for ever."""
        while True:
            cert_key, not_after = await self._waiting.get()
            try:
                await self._look_after(cert_key, not_after, certificates)
            except (NotPermitted, StorageError) as error:
                self._known.drop(cert_key)
                _log.warning("renewal.not_scheduled", cert_key=cert_key, reason=str(error))

    async def _look_after(self, cert_key: str, not_after: int, certificates: Renewables) -> None:
        for queue in (RENEWALS, PARKED):
            entry = await self._storage.scheduled(queue, cert_key)
            if entry is not None and entry.rank == not_after:  # that is how entries tell certificates apart
                return
        stored = await certificates.find(cert_key)
        if stored is not None:
            await self._plan.add(stored)
