"""Asks CAs when they want certificates renewed (ARI, RFC 9773). It is advice: without it the schedule stands."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

import structlog

from ssl_cert_server.acme.ari import RenewalInfo
from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import AcmeError, CertServerError
from ssl_cert_server.model import Certificate
from ssl_cert_server.renewal.known import Known, RenewalSchedule
from ssl_cert_server.service.issuance import AcmeCertificates
from ssl_cert_server.service.records import IssuedRecord, load_record, save_record
from ssl_cert_server.storage.base import Storage

_log = structlog.get_logger()

_SIDE_BY_SIDE = 8
_ASK_AFTER_FAILURE = 6 * 3600.0
_SHORTEST, _LONGEST = 60.0, 86_400.0
"""Seconds; a CA's Retry-After is clamped to these (ACME-ARI section 4.3)."""

_PEER_ASKS = 60.0
_ASKING = 60.0


class RenewalAdviser(Protocol):
    """What advice needs of a CA."""

    async def renewal_info(self, certificate: Certificate) -> RenewalInfo | None:
        """See :meth:`ssl_cert_server.issuers.acme.AcmeCa.renewal_info`."""


class AdviceWorker:
    """Asks for each certificate the CA that issued it, once for all instances, and keeps what it said."""

    def __init__(
        self,
        schedule: RenewalSchedule,
        certificates: AcmeCertificates,
        cas: Mapping[str, RenewalAdviser],
        storage: Storage,
        clock: Clock,
    ) -> None:
        """``cas`` are the configured CAs by the URL of their directory."""
        self._schedule = schedule
        self._certificates = certificates
        self._cas = cas
        self._storage = storage
        self._clock = clock
        self._slots = asyncio.Semaphore(_SIDE_BY_SIDE)

    async def run(self) -> None:
        """Ask what is to be asked, for ever."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._slots.acquire()
                known = self._schedule.known(await self._schedule.questions.next())
                if known is None:
                    self._slots.release()
                else:
                    group.create_task(self._consult(known))

    async def _consult(self, known: Known) -> None:
        cert_key = known.subject.cert_key
        ask_at = self._clock.now() + _ASK_AFTER_FAILURE
        try:
            record = await self._consulted(known)
            if record is not None:
                ask_at = record.ask_at
                self._heed(known, record)
        except CertServerError as error:
            _log.warning("renewal.advice_failed", cert_key=cert_key, reason=str(error))
        except Exception:  # noqa: BLE001 - a bug met by one certificate must not stop the others
            _log.exception("renewal.advice_crashed", cert_key=cert_key)
        finally:
            self._slots.release()
        if self._schedule.known(cert_key) is known:
            self._schedule.questions.add(cert_key, ask_at)

    async def _consulted(self, known: Known) -> IssuedRecord | None:
        """Give what is kept of a certificate, the CA asked again where that is due; None where it gives no advice.

        :raises CertServerError: storage can't be read or written.
        """
        cert_key = known.subject.cert_key
        record = await load_record(self._storage, cert_key, known.fingerprint)
        if self._clock.now() < record.ask_at <= self._clock.now() + _LONGEST:
            return record  # a peer asked
        directory_url, ca = self._adviser(record)
        if ca is None or self._clock.now() >= known.not_after:
            return None
        lease = await self._storage.acquire(f"advice/{cert_key}", _ASKING)
        if lease is None:
            return replace(record, ask_at=self._clock.now() + _PEER_ASKS)
        try:
            certificate = await self._certificates.stored(known.subject)
            if certificate is None or certificate.fingerprint != known.fingerprint:
                return None  # replaced: it isn't asked for any more
            async with asyncio.timeout(_ASKING):
                asked = await self._ask(ca, certificate, record)
            if asked is None:
                return None
            if asked.renew_at:  # it knew the certificate, so it issued it
                asked = replace(asked, directory_url=directory_url)
            return await self._kept(known, asked)
        except TimeoutError:
            raise AcmeError(f"no advice within {_ASKING:.0f} s") from None
        finally:
            await self._storage.release(lease)

    def _adviser(self, record: IssuedRecord) -> tuple[str, RenewalAdviser | None]:
        """Give the CA that issued a certificate; where nobody noted that, the only one that there is."""
        if not record.directory_url and len(self._cas) == 1:
            return next(iter(self._cas.items()))
        return record.directory_url, self._cas.get(record.directory_url)

    async def _kept(self, known: Known, asked: IssuedRecord) -> IssuedRecord | None:
        """Write what the CA said, unless the certificate was replaced meanwhile: its successor's record stands there.

        While it is being renewed nothing is written, as that is asked for soon again anyway.
        """
        cert_key = known.subject.cert_key
        lease = await self._storage.acquire(f"certificates/{cert_key}", _ASKING)
        if lease is None:
            return replace(asked, ask_at=self._clock.now() + _PEER_ASKS)
        try:
            certificate = await self._certificates.stored(known.subject)
            if certificate is None or certificate.fingerprint != known.fingerprint:
                return None
            await save_record(self._storage, cert_key, asked, lease)
            return asked
        finally:
            await self._storage.release(lease)

    async def _ask(self, ca: RenewalAdviser, certificate: Certificate, record: IssuedRecord) -> IssuedRecord | None:
        now = self._clock.now()
        try:
            info = await ca.renewal_info(certificate)
        except AcmeError as error:
            _log.warning("renewal.advice_failed", names=sorted(certificate.names), reason=str(error))
            return replace(record, ask_at=now + _ASK_AFTER_FAILURE)
        if info is None:
            return None
        if info.retry_after is None:
            _log.warning("renewal.advice_failed", names=sorted(certificate.names), reason="no Retry-After")
            return replace(record, ask_at=now + _ASK_AFTER_FAILURE)
        drawn = record.renew_at
        if (info.start, info.end) != (record.window_start, record.window_end):
            drawn = info.start + (info.end - info.start) * self._clock.random()
        ask_at = now + min(max(info.retry_after, _SHORTEST), _LONGEST)
        return replace(record, window_start=info.start, window_end=info.end, renew_at=drawn, ask_at=ask_at)

    def _heed(self, known: Known, record: IssuedRecord) -> None:
        if not record.renew_at or self._schedule.known(known.subject.cert_key) is not known:
            return
        if record.window_end <= self._clock.now():
            _log.warning(
                "renewal.emergency", cert_key=known.subject.cert_key, reason="its CA wants it replaced at once"
            )
        self._schedule.advise(known.subject.cert_key, record.renew_at)
