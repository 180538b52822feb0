"""Writes certificates back that storage lost: those that this instance holds in memory or in its mirror."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Container
from contextlib import suppress

import structlog

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import InvalidCertificate, StorageError
from ssl_cert_server.issuers.local_ca import ROOT_KEY
from ssl_cert_server.log_interval import ReasonInterval
from ssl_cert_server.model import Certificate, Subject
from ssl_cert_server.pki.x509 import check_covers
from ssl_cert_server.renewal.plan import RenewalPlan, Stored
from ssl_cert_server.service.policy import Policy
from ssl_cert_server.service.records import load_record, save_record
from ssl_cert_server.service.remembered import RememberedNames
from ssl_cert_server.service.retained import Finding, Retention, is_retained
from ssl_cert_server.service.retention import Action
from ssl_cert_server.storage.base import Lease, Storage
from ssl_cert_server.storage.passed_over import PassedOver
from ssl_cert_server.storage.removals import record_key, save_removals

_log = structlog.get_logger()

CURSOR = "_mirror/cursor"
"""Key in the mirror for the last cursor of changes: at a start it shows whether storage went back meanwhile."""

_LEASE = 30.0
_LOOK_EVERY = 20.0
_CHECKED = 50
"""Certificates in memory that one look checks, in turn."""

_BETWEEN_WRITES = 0.02
_BETWEEN_READS = 0.005
_BUSY = 5.0
"""Seconds until a key is tried again whose lease another holder has."""

_AFTER_ERROR = (1.0, 60.0)
_REMEMBERED = 10_000
"""Broken values that were logged."""

_LOG_AGAIN = 86_400.0
"""Seconds after which a broken value is logged again."""

_BROKEN = "look at the disk; the certificate in memory, or in the mirror, is written back"


class WriteBack:
    """Works off :attr:`Retention.lost`, one key after the other, each under its lease.

    Several instances that hold the same certificates do each once: the second finds it in storage. After a sign that
    storage went back (:meth:`look_at_all`, a cursor that storage doesn't know, a certificate in memory that it lacks),
    everything that is held is compared with storage.
    """

    def __init__(
        self,
        retention: Retention,
        storage: Storage,
        policy: Policy,
        plan: RenewalPlan,
        clock: Clock,
        *,
        others: Container[str],
        in_memory: Callable[[], Collection[str]],
        lease_of: Callable[[str], str],
    ) -> None:
        """``others`` are the keys of certificates that no CA issued; of the rest, the policy has to permit the name.

        ``in_memory`` returns the keys of the certificates in memory, ``lease_of`` the lease that a key needs.
        """
        self._retention = retention
        self._storage = storage
        self._policy = policy
        self._plan = plan
        self._clock = clock
        self._others = others
        self._in_memory = in_memory
        self._lease_of = lease_of
        self._in_turn: deque[str] = deque()
        self._went_back = asyncio.Event()
        self._pause = _AFTER_ERROR[0]
        self._cursor = ""
        self._unreadable = ReasonInterval()
        self._broken = RememberedNames(clock, _REMEMBERED)

    def look_at_all(self) -> None:
        """Have all that is held compared with storage: anything may have been lost."""
        self._went_back.set()

    async def run(self) -> None:
        """Find what was lost and write it back, for ever."""
        self._cursor = ""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._find())
            group.create_task(self._write_all())

    # --- finding

    async def _find(self) -> None:
        pause = _AFTER_ERROR[0]
        while True:
            try:
                await self._look()
                pause = _AFTER_ERROR[0]
            except StorageError as error:
                _log.warning("write_back.not_compared", again_in=pause, reason=str(error))
                await self._clock.sleep(pause * (1 + self._clock.random()))
                pause = min(pause * 2, _AFTER_ERROR[1])
                continue
            await self._wait()

    async def _look(self) -> None:
        """Compare everything where storage went back, and keep in the mirror how far changes go."""
        saved = await self._saved_cursor()
        before = self._cursor or saved  # a full mirror keeps an old one, which storage does not know for ever
        if (
            self._went_back.is_set()
            or (before and (await self._storage.changes(before, 0.0)).reset)
            or await self._some_are_lost()
        ):
            await self._compare_all()
        if self._retention.copies is not None:
            self._cursor = (await self._storage.changes("", 0.0)).cursor
            if self._cursor != saved:
                with suppress(StorageError):  # a mirror that can't be written says nothing about storage
                    await self._retention.copies.put(CURSOR, self._cursor.encode())

    async def _some_are_lost(self) -> bool:
        """Return whether storage lost one of the next few certificates in memory: a loss is not announced."""
        if not self._in_turn:
            # A managed certificate alone may have been removed by its operator.
            self._in_turn.extend(key for key in (ROOT_KEY, *self._in_memory()) if not self._policy.is_managed(key))
        found, passed = False, PassedOver()
        for _ in range(min(_CHECKED, len(self._in_turn))):
            with passed.unreadable():
                found |= await self._retention.examine(self._in_turn.popleft()) is not None
        if passed.count and self._unreadable.over(passed.reason):
            passed.tell("")
        return found

    async def _saved_cursor(self) -> str:
        copies = self._retention.copies
        with suppress(StorageError):  # a mirror that can't be read is logged by what fills it
            return (await copies.get(CURSOR) or b"").decode("ascii", "replace") if copies is not None else ""
        return ""

    async def _compare_all(self) -> None:
        self._went_back.clear()
        compared, passed = 0, PassedOver()
        try:
            async for key in self._all_keys():
                with passed.unreadable():
                    await self._compare(key)
                compared += 1
                await self._clock.sleep(_BETWEEN_READS)
        except StorageError:
            self._went_back.set()
            raise
        _log.info("write_back.compared", certificates=compared, unreadable=passed.count)

    async def _all_keys(self) -> AsyncIterator[str]:
        first = dict.fromkeys([ROOT_KEY, *self._in_memory(), *self._retention.removed_keys()])
        for key in first:
            yield key
        if self._retention.copies is not None:
            async for key in self._retention.copies.list():
                if is_retained(key) and key not in first:
                    yield key

    async def _compare(self, key: str) -> None:
        while self._retention.lost.full:
            await self._clock.sleep(1.0)
        if self._retention.removals_of(key) or await self._retention.examine(key) is not None:
            self._retention.lost.add(key)

    async def _wait(self) -> None:
        seconds = _LOOK_EVERY * (1 + self._clock.random() / 4)
        waits = [asyncio.ensure_future(self._clock.sleep(seconds)), asyncio.ensure_future(self._went_back.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiting in waits:
                waiting.cancel()

    # --- writing

    async def _write_all(self) -> None:
        lost, busy = self._retention.lost, 0
        while True:
            key = await lost.take()
            try:
                busy = 0 if await self.mend(key) else busy + 1
                self._pause = _AFTER_ERROR[0]
                pause = _BUSY if busy > len(lost) else _BETWEEN_WRITES
            except StorageError as error:
                _log.warning("write_back.failed", cert_key=key, again_in=self._pause, reason=str(error))
                busy, pause = 0, self._pause
                self._pause = min(self._pause * 2, _AFTER_ERROR[1])
                lost.add(key)
            if busy:
                lost.add(key)
            await self._clock.sleep(pause * (1 + self._clock.random()))

    async def mend(self, key: str) -> bool:
        """Write a key back, or remove it, under its lease; return False where another holder has the lease.

        :raises StorageError: storage can't be read or written.
        """
        lease = await self._storage.acquire(self._lease_of(key), _LEASE)
        if lease is None:
            return False
        try:
            removals = self._retention.removals_of(key)
            if removals:
                await save_removals(self._storage, key, removals, now=self._clock.now(), lease=lease)
            finding = await self._retention.examine(key)
            self._note_broken(key, finding)
            mended = finding is not None and await self._act(key, finding, lease)
        finally:
            with suppress(StorageError):  # it lapses by itself
                await self._storage.release(lease)
        if mended:
            await self._storage.announce([record_key(key), key] if removals else [key])
        return True

    def _note_broken(self, key: str, finding: Finding | None) -> None:
        """Log that the stored value is broken: once, though it may take several tries to write it back."""
        if finding is not None and finding.broken and f"{key} {finding.broken}" not in self._broken:
            self._broken.add(f"{key} {finding.broken}", _LOG_AGAIN)
            _log.warning("certificate.unusable", cert_key=key, reason=finding.broken, remedy=_BROKEN)

    async def _act(self, key: str, finding: Finding, lease: Lease) -> bool:
        fingerprint = finding.certificate.fingerprint
        if finding.action is Action.REMOVE:
            await self._storage.delete(key, lease=lease)
            _log.warning("certificate.removed_again", cert_key=key, fingerprint=fingerprint)
            return True
        subject = self._policy.stored_subject(key)
        if subject is not None and _covers(finding.certificate, subject):
            # Planned before it is stored: were the server to die in between, the plan would only find nothing.
            await self._plan.add(Stored(subject, finding.certificate, finding.record))
        elif key not in self._others:
            return False
        await self._storage.put(key, finding.value, lease=lease)
        if subject is not None and await load_record(self._storage, key, fingerprint) != finding.record:
            await save_record(self._storage, key, finding.record, lease)
        _log.warning("certificate.written_back", cert_key=key, fingerprint=fingerprint)
        return True


def _covers(certificate: Certificate, subject: Subject) -> bool:
    try:
        for name in subject.names:
            check_covers(certificate, name)
    except InvalidCertificate:
        return False
    return True
