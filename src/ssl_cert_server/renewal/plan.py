"""When each stored certificate is renewed, and its CA asked for advice: kept in storage, for all instances."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import structlog

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import StorageError
from ssl_cert_server.model import Certificate, Subject
from ssl_cert_server.renewal.clock_marks import ClockMarks
from ssl_cert_server.renewal.due_worker import CLAIMED_FOR
from ssl_cert_server.renewal.schedule import advised_at, believed, expiring_from, renew_at
from ssl_cert_server.service.budget.planner import Priority
from ssl_cert_server.service.records import IssuedRecord
from ssl_cert_server.storage.base import Due, Storage

_log = structlog.get_logger()

RENEWALS = "renewal"
QUESTIONS = "advice"
STAPLES = "ocsp"
PARKED = "parked"
"""Renewals that wait until the budget has room for them."""

EXPIRIES = "expiry"
"""Warnings, for as long as a certificate isn't replaced."""

GIVEN_UP_AFTER = 7 * 86_400.0
"""Seconds after which an expired certificate is nobody's any more; the next request for its name issues on the fly."""

_EXPECTED_WITHIN = 3600.0
"""Seconds after which somebody looks what became of an issuance whose server died."""

_FIRST_QUESTION = 3600.0
"""Seconds within which the CA is first asked for its advice."""

_RENEWED_FIRST = 3600.0
"""Seconds that renewal has with a certificate that was just found, before anybody is warned of it."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A stored certificate, what it is for, and what is known of it."""

    subject: Subject
    certificate: Certificate
    record: IssuedRecord


class RenewalPlan:
    """Schedules. ``renew_before`` is in seconds; see :func:`~ssl_cert_server.renewal.schedule.renew_at`.

    ``sooner`` tells, for each queue, that something was scheduled which may come up before what was known; ``marks``
    are made before anything is.
    """

    def __init__(self, storage: Storage, clock: Clock, renew_before: float | None) -> None:
        self._storage = storage
        self._clock = clock
        self._renew_before = renew_before
        self.sooner: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.marks = ClockMarks(storage, clock)

    async def expect(self, cert_key: str) -> None:
        """Have somebody look after a certificate that is about to be issued for the first time.

        Were this server to die right after it is stored, nobody would know that it has to be renewed.

        :raises StorageError: it can't be kept.
        """
        await self._schedule(RENEWALS, Due(cert_key, self._clock.now() + _EXPECTED_WITHIN, self._clock.now()))

    async def stored(self, subject: Subject, certificate: Certificate, record: IssuedRecord) -> None:
        """Have a certificate that was just stored renewed when it is due; trouble is left to :meth:`expect`'s entry."""
        try:
            await self.add(Stored(subject, certificate, record))
        except StorageError as error:
            _log.warning("renewal.not_scheduled", cert_key=subject.cert_key, reason=str(error))

    async def publish_later(self, stored: Stored) -> None:
        """Have a certificate that could not be announced come up soon; trouble is left to the entry from before."""
        with suppress(StorageError):
            await self.renew_at(stored, self._clock.now() + CLAIMED_FOR)

    async def add(self, stored: Stored) -> None:
        """Have a certificate renewed when it is due, its CA asked before, and a warning given if it is never replaced.

        :raises StorageError: it can't be kept.
        """
        await self.keep(self.entries(stored))

    def entries(self, stored: Stored) -> dict[str, Due]:
        """Give what is planned of a certificate that was just found, by queue, in the order in which it is kept.

        Its renewal is the last, as its entry from before comes up again by itself, and then all of this is done anew.
        """
        certificate, now = stored.certificate, self._clock.now()
        cert_key = stored.subject.cert_key
        asked_at = max(believed(stored.record.ask_at, now), now + _FIRST_QUESTION * self._clock.random())
        entries = {
            EXPIRIES: self._first_warning(cert_key, certificate, self.expiring_from(certificate)),
            QUESTIONS: Due(cert_key, asked_at),
        }
        if certificate.ocsp_urls:
            entries[STAPLES] = Due(cert_key, now)
        return entries | {RENEWALS: Due(cert_key, self.due_at(stored), rank_of(stored))}

    async def keep(self, entries: Mapping[str, Due]) -> None:
        """Keep entries by queue.

        :raises StorageError: they can't be kept.
        """
        for queue, entry in entries.items():
            await self._schedule(queue, entry)

    def due_at(self, stored: Stored, *, chance: float | None = None) -> float:
        """Give when a certificate is to be renewed, by its CA's advice where there is some (Unix seconds).

        Else the dice spread it; with a ``chance`` of 0 it is the first moment that they may have given, of 1 the last.
        """
        certificate, record, now = stored.certificate, stored.record, self._clock.now()
        rests_until = believed(record.rests_until, now)
        if record.revoked:
            return rests_until if record.follows_young else 0.0
        if record.renew_at:
            advised = advised_at(record.renew_at, certificate.not_before, certificate.not_after)
            return max(advised, believed(record.heeded_from, now))
        chance = self._clock.random() if chance is None else chance
        usual = renew_at(certificate.not_before, certificate.not_after, chance, self._renew_before)
        return max(usual, rests_until)

    async def renew_at(self, stored: Stored, at: float) -> None:
        """Have a certificate renewed at a time; the sooner it expires, the sooner it goes of those that are due.

        :raises StorageError: it can't be kept.
        """
        await self._schedule(RENEWALS, Due(stored.subject.cert_key, at, rank_of(stored)))

    async def put_off(self, entry: Due, seconds: float, queue: str = RENEWALS) -> None:
        """Have an entry come up again after so long.

        :raises StorageError: it can't be kept.
        """
        await self._schedule(queue, Due(entry.key, self._clock.now() + seconds, entry.rank))

    async def ask_at(self, cert_key: str, at: float) -> None:
        """Have a certificate's CA asked for advice at a time.

        :raises StorageError: it can't be kept.
        """
        await self._schedule(QUESTIONS, Due(cert_key, at))

    async def staple_at(self, cert_key: str, at: float) -> None:
        """Have a certificate's responder asked about it at a time.

        :raises StorageError: it can't be kept.
        """
        await self._schedule(STAPLES, Due(cert_key, at))

    async def want_staple(self, cert_key: str) -> None:
        """Have a certificate's responder asked about it at once, unless that is about to happen.

        :raises StorageError: it can't be kept.
        """
        entry, now = await self._storage.scheduled(STAPLES, cert_key), self._clock.now()
        # One that somebody is at must not be given to another; instances' clocks may differ a little.
        if entry is None or entry.at > now + 2 * CLAIMED_FOR:
            await self.staple_at(cert_key, now)

    def priority_of(self, stored: Stored) -> Priority:
        """Tell how urgent a renewal is now."""
        pressing = stored.record.revoked or self._clock.now() > self.expiring_from(stored.certificate)
        return Priority.EXPIRING if pressing else Priority.RENEWAL

    def expiring_from(self, certificate: Certificate) -> float:
        """Give when a certificate by a CA that was not replaced yet is worth a warning (Unix seconds)."""
        return expiring_from(certificate.not_before, certificate.not_after, self._renew_before)

    async def warn(self, key: str, certificate: Certificate, begins: float) -> None:
        """Have warnings given of a certificate that was just found, from a time on.

        :raises StorageError: it can't be kept.
        """
        await self._schedule(EXPIRIES, self._first_warning(key, certificate, begins))

    async def warn_at(self, key: str, at: float, not_after: float) -> None:
        """Have a warning given at a time, or where that is earlier, when the certificate expires.

        :raises StorageError: it can't be kept.
        """
        await self._schedule(EXPIRIES, _warning(key, at, not_after))

    async def park(self, entry: Due) -> None:
        """Put a renewal aside until the budget may have room.

        :raises StorageError: it can't be kept.
        """
        await self._schedule(PARKED, Due(entry.key, 0.0, entry.rank))
        await self._storage.unschedule(RENEWALS, [entry.key])

    async def fetch_parked(self) -> bool:
        """Have the most pressing of those put aside tried again; False where there is none.

        :raises StorageError: it can't be kept.
        """
        # It comes up again by itself if this server dies before it is back where it belongs.
        for entry in await self._storage.claim(PARKED, now=self._clock.now(), limit=1, seconds=60.0):
            await self._schedule(RENEWALS, Due(entry.key, self._clock.now(), entry.rank))
            await self._storage.unschedule(PARKED, [entry.key])
            return True
        return False

    def _first_warning(self, key: str, certificate: Certificate, begins: float) -> Due:
        return _warning(key, max(begins, self._clock.now() + _RENEWED_FIRST), certificate.not_after)

    async def _schedule(self, queue: str, entry: Due) -> None:
        await self.marks.note()
        await self._storage.schedule(queue, [entry])
        self.sooner[queue].set()


def rank_of(stored: Stored) -> float:
    """Give the rank of a certificate's renewal: the time at which it expires, which tells it from other ones'."""
    return 0.0 if stored.record.revoked else float(stored.certificate.not_after)


def _warning(key: str, at: float, not_after: float) -> Due:
    return Due(key, min(at, not_after), not_after)
