"""Renews certificates in the background, each when it is due; one failure never stops the rest."""

from __future__ import annotations

import asyncio
import heapq

import structlog

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import BudgetSpent, CaClosed, CertServerError, NotPermitted, Unavailable
from ssl_cert_server.renewal.known import Known, RenewalSchedule
from ssl_cert_server.renewal.schedule import priority_of
from ssl_cert_server.service.issuance import AcmeCertificates

_log = structlog.get_logger()

_SIDE_BY_SIDE = 8
_AFTER_ERROR = 60.0
_REFUSED_RETRY = 86_400.0
_LONGEST_PAUSE = 300.0
_LOOK_EVERY = 60.0
_BETWEEN_TRIES = 1.0
"""Seconds between certificates that are tried again when the budget may have room: each tells of the next."""


class RenewalWorker:
    """Takes what is due off the schedule and has it renewed, the most pressing first, a few at a time.

    While no CA can be asked, it doesn't try one name after the other. Where the budget has no room, what needs it is
    parked, and the most pressing tried again when there may be some: renewals that cost none go on meanwhile.
    """

    def __init__(self, schedule: RenewalSchedule, certificates: AcmeCertificates, clock: Clock) -> None:
        self._schedule = schedule
        self._certificates = certificates
        self._clock = clock
        self._slots = asyncio.Semaphore(_SIDE_BY_SIDE)
        self._paused_until = float("-inf")
        self._parked: list[tuple[int, str, Known]] = []
        self._room_at = float("-inf")

    async def run(self) -> None:
        """Renew what is due, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._try_parked())
            while True:
                await self._slots.acquire()
                while (pause := self._paused_until - self._clock.monotonic()) > 0:
                    await self._clock.sleep(pause)
                known = self._schedule.known(await self._schedule.renewals.next())
                if known is None:
                    self._slots.release()
                else:
                    group.create_task(self._renew(known))

    async def _renew(self, known: Known) -> None:
        name = known.subject.names[0]
        try:
            again = await self._try(known)
        except CaClosed as error:
            again = error.retry_after
            self._pause(error)
        except BudgetSpent as error:
            again = None if error.everyone else error.retry_after
            if error.everyone:
                self._park(known, error)
        except Unavailable as error:
            again = error.retry_after
        except NotPermitted as error:
            _log.warning("renewal.not_permitted", name=name, reason=str(error))
            again = _REFUSED_RETRY
        except CertServerError as error:
            _log.error("renewal.failed", name=name, reason=str(error))
            again = _AFTER_ERROR
        except Exception:  # noqa: BLE001 - a bug met by one name must not stop the others
            _log.exception("renewal.crashed", name=name)
            again = _AFTER_ERROR
        finally:
            self._slots.release()
        if again is not None:
            self._schedule.again(known, again)

    async def _try(self, known: Known) -> float | None:
        priority = priority_of(self._clock.now(), known.not_before, known.not_after)
        certificate = await self._certificates.renew(known.subject, known.fingerprint, priority)
        # The same one: it joined the issuance of the very certificate.
        return _AFTER_ERROR if certificate.fingerprint == known.fingerprint else None

    def _park(self, known: Known, error: BudgetSpent) -> None:
        if not self._parked:
            _log.warning("renewal.parked", seconds=round(error.retry_after), reason=str(error))
        heapq.heappush(self._parked, (known.not_after, known.subject.cert_key, known))
        self._room_at = self._clock.monotonic() + min(error.retry_after, _LONGEST_PAUSE)

    async def _try_parked(self) -> None:
        while True:
            await self._clock.sleep(min(max(self._room_at - self._clock.monotonic(), _BETWEEN_TRIES), _LOOK_EVERY))
            if self._parked and self._clock.monotonic() >= self._room_at:
                *_, known = heapq.heappop(self._parked)
                self._room_at = self._clock.monotonic() + _BETWEEN_TRIES
                self._schedule.again(known, 0.0)

    def _pause(self, error: Unavailable) -> None:
        pause = min(error.retry_after, _LONGEST_PAUSE)
        if self._clock.monotonic() + pause > self._paused_until:
            self._paused_until = self._clock.monotonic() + pause
            _log.warning("renewal.paused", seconds=round(pause), due=len(self._schedule.renewals), reason=str(error))
