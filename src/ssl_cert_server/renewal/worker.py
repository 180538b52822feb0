"""Renews certificates in the background, each when it is due; one failure never stops the rest."""

from __future__ import annotations

import asyncio
from typing import Protocol

import structlog

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import (
    BackingOff,
    BudgetSpent,
    CaClosed,
    CertServerError,
    NotPermitted,
    StorageError,
    Unavailable,
)
from ssl_cert_server.model import Certificate, Subject
from ssl_cert_server.renewal.due_worker import DueWorker
from ssl_cert_server.renewal.plan import EXPIRIES, GIVEN_UP_AFTER, PARKED, QUESTIONS, RENEWALS, RenewalPlan, Stored
from ssl_cert_server.service.budget.planner import Priority
from ssl_cert_server.service.remembered import RememberedNames
from ssl_cert_server.storage.base import Due, Storage

_log = structlog.get_logger()

_SIDE_BY_SIDE = 8
_SUSPECTS_SIDE_BY_SIDE = 2
_SUSPECTS = 100_000
_SUSPECTED_FOR = 3 * 86_400.0
"""Seconds after a failure; who keeps failing is tried daily."""

_SUSPECT_PUT_OFF = 900.0
_AFTER_ERROR = 60.0
_REFUSED_RETRY = 86_400.0
_UNCOVERED_RETRY = 7 * 86_400.0
_LONGEST_PAUSE = 300.0
_LOOK_EVERY = 60.0
_BETWEEN_TRIES = 1.0
"""Seconds between certificates that are tried again when the budget may have room: each tells of the next."""


class Renewables(Protocol):
    """What renewal needs of the certificates."""

    async def find(self, cert_key: str) -> Stored | None:
        """Give what is stored, however old; None where there is no such certificate.

        :raises NotPermitted: no rule covers it.
        :raises StorageError: it can't be read.
        """

    async def take_out(self, cert_key: str, seen: Stored | None, *queues: str) -> bool:
        """See :meth:`ssl_cert_server.renewal.stored.StoredCertificates.take_out`."""

    async def renew(self, subject: Subject, replaces: str, priority: Priority) -> Certificate:
        """See :meth:`ssl_cert_server.service.issuance.AcmeCertificates.renew`."""

    async def publish(self, stored: Stored) -> None:
        """See :meth:`ssl_cert_server.service.issuance.AcmeCertificates.publish`."""


class RenewalWorker:
    """Takes what is due off the plan and has it renewed, the most pressing first, a few at a time.

    While no CA can be asked, it doesn't try one name after the other. Where the budget has no room, what needs it is
    parked, and the most pressing tried again when there may be some: renewals that cost none go on meanwhile. Names
    that failed lately have a part of the slots, and leave the others to the living.
    """

    def __init__(self, plan: RenewalPlan, certificates: Renewables, storage: Storage, clock: Clock) -> None:
        self._plan = plan
        self._certificates = certificates
        self._clock = clock
        self._room_at = float("-inf")
        # Names that fail day after day are nearest to their end, and would go first. Those whose failures take minutes,
        # as where DNS never shows a value, would hold all slots for weeks.
        self._suspects = RememberedNames(clock, _SUSPECTS)
        self._suspects_at_work = 0
        self._worker = DueWorker(
            storage,
            clock,
            RENEWALS,
            self._work,
            marks=plan.marks,
            sooner=plan.sooner[RENEWALS],
            side_by_side=_SIDE_BY_SIDE,
        )

    async def run(self) -> None:
        """Renew what is due, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._try_parked())
            group.create_task(self._worker.run())

    async def _work(self, entry: Due) -> None:
        """Renew one; where even its next time can't be kept, it comes up again when the claim lapses."""
        try:
            await self._look_after(entry)
        except CertServerError as error:
            _log.error("renewal.failed", name=entry.key, reason=str(error))
        except Exception:  # noqa: BLE001 - a bug met by one name must not stop the others
            _log.exception("renewal.crashed", name=entry.key)

    async def _look_after(self, entry: Due) -> None:
        now = self._clock.now()
        try:
            stored = await self._certificates.find(entry.key)
        except NotPermitted:
            await self._leave(entry)
            return
        if stored is None:
            await self._forget(entry.key, None)
        elif now > stored.certificate.not_after + GIVEN_UP_AFTER:
            if await self._forget(entry.key, stored):
                _log.warning("renewal.given_up", cert_key=entry.key, remedy="the next request for it issues on the fly")
        elif now < self._plan.due_at(stored, chance=0.0):
            # The instance that stored it died or failed before it announced and planned it, or a peer was faster.
            await self._certificates.publish(stored)
            await self._plan.add(stored)
        elif entry.key not in self._suspects:
            await self._renew(entry, stored)
        elif self._suspects_at_work < _SUSPECTS_SIDE_BY_SIDE:
            self._suspects_at_work += 1
            try:
                await self._renew(entry, stored)
            finally:
                self._suspects_at_work -= 1
        else:
            await self._plan.put_off(entry, _SUSPECT_PUT_OFF * (1 + self._clock.random()))

    async def _leave(self, entry: Due) -> None:
        """Leave a certificate alone that no rule covers: one may again, when the server has another configuration."""
        if self._clock.now() > entry.rank + GIVEN_UP_AFTER:
            await self._forget(entry.key, None)
        else:
            await self._plan.put_off(entry, _UNCOVERED_RETRY * (1 + self._clock.random() / 10))

    async def _forget(self, cert_key: str, seen: Stored | None) -> bool:
        return await self._certificates.take_out(cert_key, seen, RENEWALS, QUESTIONS, PARKED, EXPIRIES)

    async def _renew(self, entry: Due, stored: Stored) -> None:
        name = stored.subject.names[0]
        try:
            again = await self._try(stored)
            self._suspects.drop(entry.key)
        except CaClosed as error:
            again = error.retry_after
            self._pause(error)
        except BudgetSpent as error:
            if error.everyone:
                await self._park(entry, error)
                return
            again = error.retry_after
        except Unavailable as error:
            if isinstance(error, BackingOff) and error.suspect:
                self._suspects.add(entry.key, _SUSPECTED_FOR)
            again = error.retry_after
        except NotPermitted as error:
            _log.warning("renewal.not_permitted", name=name, reason=str(error))
            again = _REFUSED_RETRY
        except CertServerError as error:
            _log.error("renewal.failed", name=name, reason=str(error))
            again = _AFTER_ERROR
        except Exception:  # noqa: BLE001 - as above, with its next time kept
            _log.exception("renewal.crashed", name=name)
            again = _AFTER_ERROR
        if again is not None:
            await self._again(stored, again)

    async def _try(self, stored: Stored) -> float | None:
        fingerprint = stored.certificate.fingerprint
        renewed = await self._certificates.renew(stored.subject, fingerprint, self._plan.priority_of(stored))
        # The same one: it joined the issuance of the very certificate.
        return _AFTER_ERROR if renewed.fingerprint == fingerprint else None

    async def _again(self, stored: Stored, seconds: float) -> None:
        await self._plan.renew_at(stored, self._clock.now() + seconds * (1 + self._clock.random() / 10))

    async def _park(self, entry: Due, error: BudgetSpent) -> None:
        if self._clock.monotonic() >= self._room_at + _LOOK_EVERY:
            _log.warning("renewal.parked", seconds=round(error.retry_after), reason=str(error))
        self._room_at = self._clock.monotonic() + min(error.retry_after, _LONGEST_PAUSE)
        await self._plan.park(entry)

    async def _try_parked(self) -> None:
        while True:
            await self._clock.sleep(min(max(self._room_at - self._clock.monotonic(), _BETWEEN_TRIES), _LOOK_EVERY))
            if self._clock.monotonic() < self._room_at:
                continue
            try:
                found = await self._plan.fetch_parked()
            except StorageError as error:
                _log.warning("renewal.index_unreadable", queue="parked", reason=str(error))
                found = False
            self._room_at = self._clock.monotonic() + (_BETWEEN_TRIES if found else _LOOK_EVERY)

    def _pause(self, error: Unavailable) -> None:
        pause = min(error.retry_after, _LONGEST_PAUSE)
        if self._worker.pause(pause):
            _log.warning("renewal.paused", seconds=round(pause), reason=str(error))
