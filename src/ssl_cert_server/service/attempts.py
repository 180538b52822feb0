"""One attempt at a certificate: its order kept before it is used, what came of it kept before it is served."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import (
    AcmeError,
    BackingOff,
    CaProblem,
    CaUnreachable,
    CertServerError,
    InvalidCertificate,
    LeaseLost,
    OrderFailed,
    StorageError,
    Unavailable,
)
from ssl_cert_server.issuers.acme import KeepOrder
from ssl_cert_server.model import Certificate, OpenOrder, Subject
from ssl_cert_server.pki.x509 import check_covers, check_not_expired
from ssl_cert_server.service.backoff import retry_at
from ssl_cert_server.service.budget.planner import Priority
from ssl_cert_server.service.ca_health import is_trouble
from ssl_cert_server.service.records import IssuedRecord, save_record
from ssl_cert_server.service.state import NameState, backing_off, save_state
from ssl_cert_server.storage.base import Lease, Storage

_log = structlog.get_logger()

ISSUANCE_DEADLINE = 300.0
"""Seconds after which an issuance is given up, and counts as failed; waiting for DNS comes on top."""

_STORE_TRIES = 5
_NOTED_EVERY = 60.0
_TROUBLE_STEPS = 2
"""A CA's own trouble doesn't send a name into the longest back-off: it would sleep on when the CA is back."""


@dataclass(frozen=True, slots=True)
class Predecessor:
    """The certificate that is replaced, and what is known of it."""

    certificate: Certificate
    record: IssuedRecord


@dataclass(frozen=True, slots=True)
class Wanted:
    """A certificate that somebody waits for, this urgently."""

    subject: Subject
    priority: Priority
    predecessor: Predecessor | None = None


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate, the CA it came from, and the challenge type that proved control."""

    certificate: Certificate
    directory_url: str
    challenge: str


class CertificateAuthority(Protocol):
    """What an attempt needs of the CAs."""

    async def issue(self, wanted: Wanted, order: OpenOrder | None, on_order: KeepOrder) -> Issued:
        """Issue, going on with an open order where there is one; a new order goes to ``on_order`` first.

        :raises AcmeError: no CA could.
        :raises Unavailable: none may be asked now.
        """


class Attempts:
    """Makes attempts, each under the lease of its certificate. ``deadline`` (seconds) ends one, and it has failed."""

    def __init__(self, storage: Storage, ca: CertificateAuthority, clock: Clock, *, deadline: float) -> None:
        self._storage = storage
        self._ca = ca
        self._clock = clock
        self._deadline = deadline

    async def make(self, wanted: Wanted, state: NameState, lease: Lease) -> Certificate:
        """Have a certificate issued, going on from ``state``, and store it.

        :raises BackingOff: it failed, which is kept.
        :raises Unavailable: no CA may be asked now, for no fault of the name's.
        :raises StorageError: it could not be stored; the open order leads back to it.
        """
        issued = await self._issue(wanted, state, lease)
        await self._store(wanted.subject, issued, lease)
        return issued.certificate

    async def _issue(self, wanted: Wanted, state: NameState, lease: Lease) -> Issued:
        subject = wanted.subject

        async def keep(order: OpenOrder) -> None:
            nonlocal state
            state = replace(state, order=order)
            await save_state(self._storage, subject.cert_key, state, lease)

        try:
            async with asyncio.timeout(self._deadline):
                issued = await self._ca.issue(wanted, state.order, keep)
            for name in subject.names:
                check_covers(issued.certificate, name)
            check_not_expired(issued.certificate, self._clock.now())
        except (AcmeError, InvalidCertificate) as error:
            raise await self._failed(subject, state, error, lease) from error
        except TimeoutError as error:
            slow = CaUnreachable(f"the CA had not finished after {self._deadline:.0f} s")
            raise await self._failed(subject, state, slow, lease) from error
        except Unavailable as error:
            await self._note(subject, state, error, lease)
            raise
        except CertServerError:
            raise
        except Exception as error:
            # A bug of ours must not turn each request for the name into another order.
            _log.exception("certificate.crashed", name=subject.names[0])
            bug = AcmeError(f"unexpected {type(error).__name__}; the log has more")
            raise await self._failed(subject, state, bug, lease) from error
        return issued

    async def _failed(self, subject: Subject, state: NameState, error: Exception, lease: Lease) -> BackingOff:
        name, now = subject.names[0], self._clock.now()
        trouble = is_trouble(error)
        failures = state.failures if trouble else state.failures + 1
        steps = min(state.failures + 1, _TROUBLE_STEPS) if trouble else failures
        retry_after = error.retry_after if isinstance(error, AcmeError) else None
        failed = NameState(
            failures=failures,
            failed_at=now,
            retry_at=retry_at(steps, now, self._clock.random(), retry_after),
            error=str(error),
            order=None if _ends_order(error) else state.order,
        )
        await save_state(self._storage, subject.cert_key, failed, lease)
        _log.error("certificate.failed", name=name, failures=failures, retry_at=int(failed.retry_at), reason=str(error))
        return backing_off(name, failed, now)

    async def _note(self, subject: Subject, state: NameState, error: Unavailable, lease: Lease) -> None:
        """Keep why the name waits, for who asks why: no failure is counted, and none is forgotten."""
        now = self._clock.now()
        if not state.failures and (not state.error or now - state.failed_at > _NOTED_EVERY):
            await save_state(self._storage, subject.cert_key, replace(state, failed_at=now, error=str(error)), lease)

    async def _store(self, subject: Subject, issued: Issued, lease: Lease) -> None:
        """Write what the CA gave, with patience: until it is written, only the open order leads back to it."""
        name, certificate = subject.names[0], issued.certificate
        for attempt in range(1, _STORE_TRIES + 1):
            try:
                await self._storage.put(subject.cert_key, certificate.stored, lease=lease)
                break
            except LeaseLost:
                raise
            except StorageError as error:
                _log.error("certificate.not_stored", name=name, attempt=attempt, reason=str(error))
                if attempt == _STORE_TRIES:
                    raise
                await self._clock.sleep(attempt * (1 + self._clock.random()))
        _log.info(
            "certificate.issued",
            name=name,
            fingerprint=certificate.fingerprint,
            directory_url=issued.directory_url,
            challenge=issued.challenge,
        )
        record = IssuedRecord(certificate.fingerprint, issued.directory_url, issued.challenge)
        await save_record(self._storage, subject.cert_key, record, lease)
        await save_state(self._storage, subject.cert_key, NameState(), lease)


def _ends_order(error: Exception) -> bool:
    """Tell whether an order can't become a certificate any more, as far as its failure tells."""
    return isinstance(error, OrderFailed | InvalidCertificate) or (isinstance(error, CaProblem) and not error.passing)
