"""Issues for what is listed before anybody asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import structlog

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import BudgetSpent, CaClosed, CertServerError, Unavailable
from ssl_cert_server.model import Subject
from ssl_cert_server.service.budget.planner import Priority
from ssl_cert_server.service.issuance import AcmeCertificates

_log = structlog.get_logger()

_SIDE_BY_SIDE = 8
_AFTER_ERROR = 60.0


class Preload:
    """Sees to it that every subject has a certificate; those that have one cost a look into storage."""

    def __init__(self, subjects: Iterable[Subject], certificates: AcmeCertificates, clock: Clock) -> None:
        self._certificates = certificates
        self._clock = clock
        self._not_before = dict.fromkeys(subjects, 0.0)
        self._pause = 0.0

    async def run(self) -> None:
        """Work, in rounds, until nothing is missing."""
        while self._not_before:
            self._pause = 0.0
            waiting = [subject for subject, at in self._not_before.items() if at <= self._clock.now()]
            async with asyncio.TaskGroup() as group:
                for _ in range(_SIDE_BY_SIDE):
                    group.create_task(self._work(waiting))
            if self._not_before:
                await self._clock.sleep(max(self._pause, _AFTER_ERROR) * (1 + self._clock.random() / 10))

    async def _work(self, waiting: list[Subject]) -> None:
        while waiting and not self._pause:
            subject = waiting.pop()
            try:
                await self._certificates.obtain(subject.names[0], subject, Priority.PRELOAD)
                del self._not_before[subject]
            except CertServerError as error:
                self._later(subject, error)

    def _later(self, subject: Subject, error: CertServerError) -> None:
        again = error.retry_after if isinstance(error, Unavailable) else _AFTER_ERROR
        self._not_before[subject] = self._clock.now() + again
        if isinstance(error, CaClosed) or (isinstance(error, BudgetSpent) and error.everyone):
            self._pause = again  # there is no room for the others either
        _log.warning("preload.failed", name=subject.names[0], again_in=round(again), reason=str(error))
