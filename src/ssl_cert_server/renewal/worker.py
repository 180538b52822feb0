"""Renews certificates in the background, each when it is due; one failure never stops the rest."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import CertServerError, StorageError, Unavailable
from ssl_cert_server.model import Certificate
from ssl_cert_server.renewal.queue import DueQueue
from ssl_cert_server.renewal.schedule import renew_at
from ssl_cert_server.service.issuance import AcmeCertificates
from ssl_cert_server.service.policy import Policy
from ssl_cert_server.storage.base import Storage

_log = structlog.get_logger()

_SIDE_BY_SIDE = 8
_AFTER_ERROR = 60.0
_LONGEST_REST = 86_400.0
# A certificate expired for longer is nobody's any more; the next request for its name issues on the fly.
_GIVE_UP_AFTER = 7 * 86_400.0


@dataclass(frozen=True, slots=True)
class _Known:
    """What renewal remembers of a name."""

    fingerprint: str
    not_after: int


class RenewalSchedule:
    """Knows of every certificate when it is due."""

    def __init__(self, clock: Clock, renew_before: float | None) -> None:
        """``renew_before`` is in seconds; see :func:`~ssl_cert_server.renewal.schedule.renew_at`."""
        self._clock = clock
        self._renew_before = renew_before
        self._known: dict[str, _Known] = {}
        self.queue = DueQueue(clock)

    def add(self, name: str, certificate: Certificate, earliest: float = 0.0) -> None:
        """Have a certificate renewed when it is due, not before ``earliest`` (Unix seconds).

        One known already keeps the time it has.
        """
        known = self._known.get(name)
        if known and known.fingerprint == certificate.fingerprint:
            return
        self._known[name] = _Known(certificate.fingerprint, certificate.not_after)
        due = renew_at(certificate.not_before, certificate.not_after, self._clock.random(), self._renew_before)
        self.queue.add(name, max(due, earliest))

    def add_new(self, name: str, certificate: Certificate) -> None:
        """Have a certificate that was just issued renewed when it is due, but not at once.

        Where a clock is wrong, even a new certificate may look as if it were due.
        """
        self.add(name, certificate, self._clock.now() + min(certificate.lifetime / 4, _LONGEST_REST))

    def known(self, name: str) -> _Known:
        """What is remembered of a name that was added."""
        return self._known[name]

    def again(self, name: str, seconds: float) -> None:
        """Try a name again later, unless its certificate expired long ago."""
        if self._clock.now() > self._known[name].not_after + _GIVE_UP_AFTER:
            del self._known[name]
            _log.warning("renewal.given_up", name=name, remedy="the next request for it issues on the fly")
            return
        self.queue.add(name, self._clock.now() + seconds * (1 + self._clock.random() / 10))


class RenewalWorker:
    """Takes what is due off the schedule and has it renewed, a few at a time."""

    def __init__(
        self,
        schedule: RenewalSchedule,
        certificates: AcmeCertificates,
        storage: Storage,
        policy: Policy,
        clock: Clock,
    ) -> None:
        self._schedule = schedule
        self._certificates = certificates
        self._storage = storage
        self._policy = policy
        self._clock = clock
        self._slots = asyncio.Semaphore(_SIDE_BY_SIDE)

    async def run(self) -> None:
        """Schedule what is stored, and renew what is due, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._scan())
            while True:
                await self._slots.acquire()
                name = await self._schedule.queue.next()
                group.create_task(self._renew(name))

    async def _scan(self) -> None:
        """Read every stored certificate once; each schedules itself by being read.

        What can't be read is tried again later, and keeps nothing else from being read.
        """
        unread = await self._stored_names()
        while True:
            unread = {name: cert_key for name, cert_key in unread.items() if not await self._read(name, cert_key)}
            if not unread:
                return
            await self._clock.sleep(_AFTER_ERROR)

    async def _stored_names(self) -> dict[str, str]:
        """List the permitted names that have a stored certificate, with its key."""
        while True:
            try:
                keys = [(self._policy.acme_name(cert_key), cert_key) async for cert_key in self._storage.list()]
                return {name: cert_key for name, cert_key in keys if name is not None}
            except StorageError as error:
                _log.error("renewal.scan_failed", reason=str(error))
                await self._clock.sleep(_AFTER_ERROR)

    async def _read(self, name: str, cert_key: str) -> bool:
        try:
            await self._certificates.stored(name, cert_key)
        except StorageError as error:
            _log.error("renewal.unreadable", name=name, reason=str(error))
            return False
        return True

    async def _renew(self, name: str) -> None:
        known = self._schedule.known(name)
        try:
            cert_key = self._policy.decide(name).cert_key
            certificate = await self._certificates.renew(name, cert_key, known.fingerprint)
            if certificate.fingerprint == known.fingerprint:
                self._schedule.again(name, _AFTER_ERROR)  # it joined the issuance of the very certificate
        except Unavailable as error:
            self._schedule.again(name, error.retry_after)
        except CertServerError as error:
            _log.error("renewal.failed", name=name, reason=str(error))
            self._schedule.again(name, _AFTER_ERROR)
        except Exception:  # noqa: BLE001 - a bug met by one name must not stop the others
            _log.exception("renewal.crashed", name=name)
            self._schedule.again(name, _AFTER_ERROR)
        finally:
            self._slots.release()
