"""Asks CAs when they want certificates renewed (ARI, RFC 9773). It is advice: without it the plan stands."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

import structlog

from ssl_cert_server.acme.ari import RenewalInfo
from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import AcmeError, CertServerError, NotPermitted
from ssl_cert_server.model import Certificate
from ssl_cert_server.renewal.due_worker import DueWorker
from ssl_cert_server.renewal.plan import QUESTIONS, RenewalPlan, Stored
from ssl_cert_server.renewal.schedule import LONGEST_WAIT, believed
from ssl_cert_server.renewal.worker import Renewables
from ssl_cert_server.service.records import IssuedRecord
from ssl_cert_server.storage.base import Due, Storage

_log = structlog.get_logger()

_SIDE_BY_SIDE = 8
_ASK_AFTER_FAILURE = 6 * 3600.0
_SHORTEST = 60.0
"""Seconds; a CA's Retry-After is clamped to this and the longest wait (ACME-ARI section 4.3)."""

_ASKING = 60.0


class RenewalAdviser(Protocol):
    """What advice needs of a CA."""

    async def renewal_info(self, certificate: Certificate) -> RenewalInfo | None:
        """See :meth:`ssl_cert_server.issuers.acme.AcmeCa.renewal_info`."""


class Advised(Renewables, Protocol):
    """The certificates that CAs are asked about."""

    async def keep(self, stored: Stored) -> Stored | None:
        """See :meth:`ssl_cert_server.renewal.stored.StoredCertificates.keep`."""


class AdviceWorker:
    """Asks for each certificate the CA that issued it, once for all instances, and keeps what it said."""

    def __init__(
        self,
        plan: RenewalPlan,
        certificates: Advised,
        cas: Mapping[str, RenewalAdviser],
        storage: Storage,
        clock: Clock,
    ) -> None:
        """``cas`` are the configured CAs by the URL of their directory."""
        self._plan = plan
        self._certificates = certificates
        self._cas = cas
        self._clock = clock
        self._worker = DueWorker(
            storage,
            clock,
            QUESTIONS,
            self._work,
            marks=plan.marks,
            sooner=plan.sooner[QUESTIONS],
            side_by_side=_SIDE_BY_SIDE,
        )

    async def run(self) -> None:
        """Ask what is to be asked, for ever."""
        await self._worker.run()

    async def _work(self, entry: Due) -> None:
        """Ask for one; where even its next time can't be kept, it comes up again when the claim lapses."""
        try:
            await self._consult(entry.key)
        except CertServerError as error:
            _log.warning("renewal.advice_failed", cert_key=entry.key, reason=str(error))
        except Exception:  # noqa: BLE001 - a bug met by one certificate must not stop the others
            _log.exception("renewal.advice_crashed", cert_key=entry.key)
            with suppress(CertServerError):
                await self._plan.ask_at(entry.key, self._clock.now() + _ASK_AFTER_FAILURE)

    async def _consult(self, cert_key: str) -> None:
        try:
            stored = await self._certificates.find(cert_key)
        except NotPermitted:
            stored = None
        if stored is None or self._clock.now() >= stored.certificate.not_after:
            await self._certificates.take_out(cert_key, stored, QUESTIONS)  # whoever stores another one schedules it
            return
        not_before = believed(stored.record.ask_at, self._clock.now())
        if self._clock.now() < not_before:
            await self._plan.ask_at(cert_key, not_before)  # an index that was made anew doesn't know what the CA said
            return
        directory_url, ca = self._adviser(stored.record)
        ask_at = self._clock.now() + _ASK_AFTER_FAILURE
        if ca is not None:
            asked = await self._ask(ca, stored)
            if asked is None:
                await self._plan.ask_at(cert_key, ask_at)
                return
            if asked.renew_at:  # it knew the certificate, so it issued it
                asked = replace(asked, directory_url=directory_url)
            if not await self._keep(replace(stored, record=asked)):
                return  # its successor has a time of its own
            ask_at = asked.ask_at
        await self._plan.ask_at(cert_key, ask_at)

    def _adviser(self, record: IssuedRecord) -> tuple[str, RenewalAdviser | None]:
        """Give the CA that issued a certificate; where nobody noted that, the only one that there is."""
        if not record.directory_url and len(self._cas) == 1:
            return next(iter(self._cas.items()))
        return record.directory_url, self._cas.get(record.directory_url)

    async def _ask(self, ca: RenewalAdviser, stored: Stored) -> IssuedRecord | None:
        """Give what is known of a certificate when the CA was asked; None where it gives no advice."""
        now, record = self._clock.now(), stored.record
        try:
            async with asyncio.timeout(_ASKING):
                info = await ca.renewal_info(stored.certificate)
        except (AcmeError, TimeoutError) as error:
            reason = str(error) or f"no advice within {_ASKING:.0f} s"
            _log.warning("renewal.advice_failed", cert_key=stored.subject.cert_key, reason=reason)
            return replace(record, ask_at=now + _ASK_AFTER_FAILURE)
        if info is None:
            return None
        if info.retry_after is None:
            _log.warning("renewal.advice_failed", cert_key=stored.subject.cert_key, reason="no Retry-After")
            return replace(record, ask_at=now + _ASK_AFTER_FAILURE)
        drawn = record.renew_at
        if (info.start, info.end) != (record.window_start, record.window_end):
            drawn = info.start + (info.end - info.start) * self._clock.random()
        ask_at = now + min(max(info.retry_after, _SHORTEST), LONGEST_WAIT)
        return replace(record, window_start=info.start, window_end=info.end, renew_at=drawn, ask_at=ask_at)

    async def _keep(self, asked: Stored) -> bool:
        """Write what the CA said, and heed it; False where the certificate is being replaced, or was meanwhile."""
        current = await self._certificates.keep(asked)
        if current is None:
            return False
        if asked.record.renew_at and asked.record.renew_at != current.record.renew_at:
            await self._heed(asked)
        return True

    async def _heed(self, asked: Stored) -> None:
        if asked.record.window_end <= self._clock.now():
            _log.warning(
                "renewal.emergency", cert_key=asked.subject.cert_key, reason="its CA wants it replaced at once"
            )
        await self._plan.renew_at(asked, self._plan.due_at(asked))
