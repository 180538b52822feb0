"""Asks responders about certificates, each once for all instances, and keeps what they say (RFC 9919)."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol
from urllib.parse import urlsplit

import structlog

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import CertServerError, NotPermitted, OcspError, ResponderUnreachable, StorageError
from ssl_cert_server.model import Certificate
from ssl_cert_server.ocsp.codec import OcspStatus
from ssl_cert_server.ocsp.exchange import DEADLINE
from ssl_cert_server.ocsp.responder import Word
from ssl_cert_server.ocsp.staples import FOLDER, Staple, forget_staple, load_staple, save_staple
from ssl_cert_server.renewal.due_worker import DueWorker
from ssl_cert_server.renewal.plan import STAPLES, RenewalPlan, Stored
from ssl_cert_server.renewal.schedule import LONGEST_WAIT, believed
from ssl_cert_server.service.breaker import Breaker
from ssl_cert_server.storage.base import Due, Storage

_log = structlog.get_logger()

_SIDE_BY_SIDE = 8
_FIRST_RETRY, _LONGEST_RETRY = 60.0, 3_600.0
_SHORTEST = 10.0
_AFTER_ERROR = 600.0
_HALF, _SPREAD = 0.5, 0.1
_LAST_PART = 0.25
_RESPONDERS = 1_000
_PROBE = 8 * DEADLINE
"""Seconds that asking may take: two URLs, each by two hashes, and the issuer's certificate before."""


class OcspResponder(Protocol):
    """What asking needs of the way to responders."""

    async def ask(self, certificate: Certificate, before: Staple) -> Word:
        """See :meth:`ssl_cert_server.ocsp.responder.Responder.ask`."""


class Stapled(Protocol):
    """The certificates that may have staples."""

    async def find(self, cert_key: str) -> Stored | None:
        """See :meth:`ssl_cert_server.renewal.worker.Renewables.find`."""

    async def managed(self, cert_key: str) -> Certificate | None:
        """See :meth:`ssl_cert_server.renewal.stored.StoredCertificates.managed`."""

    async def take_out(self, cert_key: str, seen: Stored | None, *queues: str) -> bool:
        """See :meth:`ssl_cert_server.renewal.stored.StoredCertificates.take_out`."""

    async def keep(self, stored: Stored) -> Stored | None:
        """See :meth:`ssl_cert_server.renewal.stored.StoredCertificates.keep`."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """A certificate to ask about, what was known of it before, and the certificate as renewal sees it, if it does."""

    cert_key: str
    certificate: Certificate
    before: Staple
    renewed: Stored | None


class StapleWorker:
    """Takes what is due off the plan. A responder that fails is left alone for a while, whatever it is asked about."""

    def __init__(
        self, plan: RenewalPlan, certificates: Stapled, responder: OcspResponder, storage: Storage, clock: Clock
    ) -> None:
        self._plan = plan
        self._certificates = certificates
        self._responder = responder
        self._storage = storage
        self._clock = clock
        self._breakers: OrderedDict[str, Breaker] = OrderedDict()
        self._worker = DueWorker(
            storage,
            clock,
            STAPLES,
            self._work,
            marks=plan.marks,
            sooner=plan.sooner[STAPLES],
            side_by_side=_SIDE_BY_SIDE,
        )

    async def run(self) -> None:
        """Ask what is to be asked, for ever."""
        await self._worker.run()

    async def _work(self, entry: Due) -> None:
        """Ask about one; where even its next time can't be kept, it comes up again when the claim lapses."""
        try:
            await self._look_after(entry.key)
        except CertServerError as error:
            _log.warning("ocsp.failed", cert_key=entry.key, reason=str(error))
        except Exception:  # noqa: BLE001 - a bug met by one certificate must not stop the others
            _log.exception("ocsp.crashed", cert_key=entry.key)
            with suppress(StorageError):
                await self._plan.staple_at(entry.key, self._clock.now() + _AFTER_ERROR)

    async def _look_after(self, cert_key: str) -> None:
        certificate, renewed = await self._find(cert_key)
        if certificate is None or not certificate.ocsp_urls or self._clock.now() >= certificate.not_after:
            # Who stores or asks for another one schedules it.
            if await self._certificates.take_out(cert_key, renewed, STAPLES):
                await forget_staple(self._storage, cert_key)
            return
        before = await load_staple(self._storage, cert_key)
        if before.fingerprint != certificate.fingerprint:
            before = Staple(certificate.fingerprint, algorithm=before.algorithm)
        elif self._clock.now() < self._kept_until(before):
            await self._plan.staple_at(cert_key, before.refresh_at)
            return
        await self._ask(_Asked(cert_key, certificate, before, renewed))

    async def _find(self, cert_key: str) -> tuple[Certificate | None, Stored | None]:
        try:
            stored = await self._certificates.find(cert_key)
            return (stored.certificate, stored) if stored is not None else (None, None)
        except NotPermitted:
            pass
        try:
            return await self._certificates.managed(cert_key), None
        except NotPermitted:
            return None, None

    async def _ask(self, asked: _Asked) -> None:
        breaker = self._breaker(asked.certificate.ocsp_urls[0])
        if breaker.pause:
            again = self._clock.now() + breaker.pause * (1 + self._clock.random())
            await self._plan.staple_at(asked.cert_key, again)
            return
        admitted = breaker.admit()
        try:
            word = await self._responder.ask(asked.certificate, asked.before)
        except OcspError as error:
            breaker.failed(admitted, asked.cert_key, answered=not isinstance(error, ResponderUnreachable))
            await self._failed(asked, error)
        else:
            breaker.worked(admitted)
            await self._heard(asked, word)

    async def _failed(self, asked: _Asked, error: OcspError) -> None:
        """Keep what there is, for as long as it holds."""
        before, now = asked.before, self._clock.now()
        again = now + max(self._pause(before), min(error.retry_after or 0.0, LONGEST_WAIT))
        left = before.next_update - now
        if before.response and left < _LAST_PART * (before.next_update - before.this_update):
            _log.error(
                "ocsp.expiring",
                cert_key=asked.cert_key,
                hours_left=round(max(left, 0.0) / 3600, 1),
                reason=str(error),
                remedy="see that this machine reaches the CA's responder (HTTP, DNS, HTTP_PROXY)",
            )
        else:
            _log.warning("ocsp.failed", cert_key=asked.cert_key, again_in=round(again - now), reason=str(error))
        await self._keep(asked, replace(before, refresh_at=again, failures=before.failures + 1))

    async def _heard(self, asked: _Asked, word: Word) -> None:
        if word.verdict is None:
            kept = replace(asked.before, failures=0)
            await self._keep(asked, replace(kept, refresh_at=self._refresh_at(kept, word.max_age)))
            return
        status = word.verdict.status
        kept = Staple(
            asked.certificate.fingerprint,
            status,
            word.response if status is OcspStatus.GOOD else b"",
            word.verdict.this_update,
            word.verdict.next_update,
            etag=word.etag if status is OcspStatus.GOOD else "",
            algorithm=word.algorithm,
        )
        if status is OcspStatus.UNKNOWN:
            # Many responders hear of a certificate some minutes after it was issued.
            kept = replace(kept, failures=asked.before.failures + 1)
            again = self._clock.now() + self._pause(asked.before)
            _log.warning("ocsp.unknown", cert_key=asked.cert_key, remedy="no staple is given while its CA says so")
        else:
            again = self._refresh_at(kept, word.max_age)
        await self._keep(asked, replace(kept, refresh_at=again))
        if status is OcspStatus.REVOKED:
            await self._replace(asked)

    async def _replace(self, asked: _Asked) -> None:
        """Have a revoked certificate replaced at once, or tell whoever can."""
        stored = asked.renewed
        fingerprint = asked.certificate.fingerprint
        if stored is None:
            remedy = f"it is managed: put another certificate under {asked.cert_key}"
            _log.error("ocsp.revoked", cert_key=asked.cert_key, fingerprint=fingerprint, remedy=remedy)
            return
        _log.error("ocsp.revoked", cert_key=asked.cert_key, fingerprint=fingerprint, remedy="it is being replaced")
        if stored.record.revoked:
            return  # it was planned, and may have failed for now
        revoked = replace(stored, record=replace(stored.record, revoked=True))
        if await self._certificates.keep(revoked) is not None:
            await self._plan.renew_at(revoked, self._plan.due_at(revoked))

    async def _keep(self, asked: _Asked, staple: Staple) -> None:
        await save_staple(self._storage, asked.cert_key, staple)
        if staple.response != asked.before.response:
            await self._announce(asked.cert_key)
        await self._plan.staple_at(asked.cert_key, staple.refresh_at)

    async def _announce(self, cert_key: str) -> None:
        try:
            await self._storage.announce([f"{FOLDER}/{cert_key}"])
        except StorageError as error:
            _log.warning("changes.not_announced", cert_key=cert_key, reason=str(error))

    def _kept_until(self, before: Staple) -> float:
        """Give when to ask again, by what is kept; 0 where only a clock that was ahead can have said so."""
        in_its_life = before.refresh_at <= before.next_update
        return before.refresh_at if in_its_life else believed(before.refresh_at, self._clock.now())

    def _pause(self, before: Staple) -> float:
        """Give how long to wait before trying again: not so long that what there is would expire meanwhile."""
        pause = min(_FIRST_RETRY * 2.0 ** min(before.failures, 10), _LONGEST_RETRY)
        if before.holds(self._clock.now()):
            pause = min(pause, max((before.next_update - self._clock.now()) / 4, _SHORTEST))
        return pause * (1 + self._clock.random() / 2)

    def _refresh_at(self, staple: Staple, max_age: float) -> float:
        """Give when to ask again: from half-life, and not while caches would give the same (Unix seconds)."""
        now, life = self._clock.now(), staple.next_update - staple.this_update
        half = staple.this_update + life * (_HALF + _SPREAD * self._clock.random())
        cached = min(now + max_age, staple.next_update - life * _LAST_PART)
        # A responder may go on giving what is past its half-life.
        soonest = now + max((staple.next_update - now) / 8, _SHORTEST)
        return max(half, cached, soonest)

    def _breaker(self, url: str) -> Breaker:
        host = urlsplit(url).netloc
        breaker = self._breakers.get(host)
        if breaker is None:
            breaker = self._breakers[host] = Breaker(self._clock, probe=_PROBE)
            if len(self._breakers) > _RESPONDERS:
                self._breakers.popitem(last=False)
        self._breakers.move_to_end(host)
        return breaker
