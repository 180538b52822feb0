"""ACME certificates for names: from storage, else issued on the fly, and renewed.

One issuance per name at a time over all instances (a lease), a bound on those that run side by side and on those that
wait, failures remembered with back-off, and nothing asked of a CA while storage can't be written.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
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
    Overloaded,
    StorageError,
)
from ssl_cert_server.model import Certificate, CertificateType, OpenOrder
from ssl_cert_server.pki.x509 import check_covers, check_not_expired, parse_certificate
from ssl_cert_server.service.backoff import retry_at
from ssl_cert_server.service.flights import Flights
from ssl_cert_server.service.state import NameState, load_state, save_state
from ssl_cert_server.storage.base import Lease, Storage
from ssl_cert_server.storage.leasing import leased

_log = structlog.get_logger()

ISSUANCE_DEADLINE = 300.0
"""Seconds after which an issuance is given up, and counts as failed."""

_SIDE_BY_SIDE = 32
_WAITING = 1000
_WAIT_DEADLINE = 600.0
_OVERLOADED_RETRY = 30.0
_STORE_TRIES = 5


class CertificateAuthority(Protocol):
    """What issuance needs of a CA."""

    async def issue(
        self, name: str, order: OpenOrder | None, on_order: Callable[[OpenOrder], Awaitable[None]]
    ) -> Certificate:
        """Issue for a name, going on with an open order where there is one; a new order goes to ``on_order`` first.

        :raises AcmeError: the CA refused or could not be reached.
        """


class AcmeCertificates:
    """The issuer behind the ACME rule.

    ``on_known`` is called with every usable certificate read from storage, ``on_stored`` instead with one that was
    just written, here or by a peer that was faster.
    """

    type = CertificateType.ACME

    def __init__(
        self,
        storage: Storage,
        ca: CertificateAuthority,
        clock: Clock,
        *,
        on_known: Callable[[str, Certificate], None],
        on_stored: Callable[[str, Certificate], None],
    ) -> None:
        self._storage = storage
        self._ca = ca
        self._clock = clock
        self._on_known = on_known
        self._on_stored = on_stored
        self._issuances: Flights[Certificate] = Flights(_WAITING)
        self._slots = asyncio.Semaphore(_SIDE_BY_SIDE)

    async def obtain(self, name: str, cert_key: str) -> Certificate:
        certificate = await self.stored(name, cert_key)
        if certificate is not None:
            return certificate
        await self._state_to_go_on_from(name, cert_key)
        return await self._join(name, cert_key, replaces="")

    async def renew(self, name: str, cert_key: str, replaces: str) -> Certificate:
        """Issue a successor of the certificate with the fingerprint ``replaces``, unless a peer did so already.

        :raises CertServerError: it failed; a BackingOff tells when to try again.
        """
        return await self._join(name, cert_key, replaces)

    def fresh_until(self, certificate: Certificate) -> float:
        return certificate.not_after

    async def stored(self, name: str, cert_key: str) -> Certificate | None:
        """Read the usable certificate for a name, or None.

        :raises StorageError: it can't be read.
        """
        certificate = await self._read(name, cert_key)
        if certificate is not None:
            self._on_known(name, certificate)
        return certificate

    async def close(self) -> None:
        """Give up what is under way; open orders are kept, and gone on with later."""
        await self._issuances.close()

    async def _read(self, name: str, cert_key: str) -> Certificate | None:
        pem = await self._storage.get(cert_key)
        if pem is None:
            return None
        try:
            certificate = parse_certificate(pem)
            check_covers(certificate, name)
            check_not_expired(certificate, self._clock.now())
        except InvalidCertificate as error:
            _log.warning("certificate.unusable", name=name, cert_key=cert_key, reason=str(error))
            return None
        return certificate

    async def _join(self, name: str, cert_key: str, replaces: str) -> Certificate:
        if self._issuances.full and name not in self._issuances:
            raise Overloaded(f"{name}: {_WAITING} issuances wait already", _OVERLOADED_RETRY)
        return await self._issuances.join(name, lambda: self._issue(name, cert_key, replaces))

    async def _issue(self, name: str, cert_key: str, replaces: str) -> Certificate:
        async with self._turn(name, cert_key) as lease:
            certificate = await self._read(name, cert_key)
            if certificate is None or certificate.fingerprint == replaces:
                state = await self._state_to_go_on_from(name, cert_key)
                await self._storage.check_writable()
                certificate = await self._order(name, cert_key, state, lease)
                await self._store(name, cert_key, certificate, lease)
        self._on_stored(name, certificate)
        return certificate

    @asynccontextmanager
    async def _turn(self, name: str, cert_key: str) -> AsyncIterator[Lease]:
        """Wait for the name's lease, then for a slot: who waits for a peer keeps none from the other names."""
        try:
            async with asyncio.timeout(_WAIT_DEADLINE) as waiting:
                async with leased(self._storage, f"certificates/{cert_key}", self._clock) as lease, self._slots:
                    waiting.reschedule(None)
                    yield lease
        except TimeoutError as error:
            raise Overloaded(f"{name}: not its turn within {_WAIT_DEADLINE:.0f} s", _OVERLOADED_RETRY) from error

    async def _order(self, name: str, cert_key: str, state: NameState, lease: Lease) -> Certificate:
        async def keep(order: OpenOrder) -> None:
            nonlocal state
            state = replace(state, order=order)
            await save_state(self._storage, cert_key, state, lease)

        try:
            async with asyncio.timeout(ISSUANCE_DEADLINE):
                certificate = await self._ca.issue(name, state.order, keep)
            check_covers(certificate, name)
            check_not_expired(certificate, self._clock.now())
        except (AcmeError, InvalidCertificate) as error:
            raise await self._failed(name, cert_key, state, error, lease) from error
        except TimeoutError as error:
            slow = CaUnreachable(f"the CA had not finished after {ISSUANCE_DEADLINE:.0f} s")
            raise await self._failed(name, cert_key, state, slow, lease) from error
        except CertServerError:
            raise
        except Exception as error:
            # A bug of ours must not turn each request for the name into another order.
            _log.exception("certificate.crashed", name=name)
            bug = AcmeError(f"unexpected {type(error).__name__}; the log has more")
            raise await self._failed(name, cert_key, state, bug, lease) from error
        return certificate

    async def _failed(self, name: str, cert_key: str, state: NameState, error: Exception, lease: Lease) -> BackingOff:
        now = self._clock.now()
        failures = state.failures + 1
        retry_after = error.retry_after if isinstance(error, AcmeError) else None
        failed = NameState(
            failures=failures,
            failed_at=now,
            retry_at=retry_at(failures, now, self._clock.random(), retry_after),
            error=str(error),
            order=None if _ends_order(error) else state.order,
        )
        await save_state(self._storage, cert_key, failed, lease)
        _log.error("certificate.failed", name=name, failures=failures, retry_at=int(failed.retry_at), reason=str(error))
        return _backing_off(name, failed, now)

    async def _store(self, name: str, cert_key: str, certificate: Certificate, lease: Lease) -> None:
        """Write what the CA gave, with patience: until it is written, only the open order leads back to it."""
        for attempt in range(1, _STORE_TRIES + 1):
            try:
                await self._storage.put(cert_key, certificate.stored, lease=lease)
                _log.info("certificate.issued", name=name, fingerprint=certificate.fingerprint)
                break
            except LeaseLost:
                raise
            except StorageError as error:
                _log.error("certificate.not_stored", name=name, attempt=attempt, reason=str(error))
                if attempt == _STORE_TRIES:
                    raise
                await self._clock.sleep(attempt * (1 + self._clock.random()))
        await save_state(self._storage, cert_key, NameState(), lease)

    async def _state_to_go_on_from(self, name: str, cert_key: str) -> NameState:
        """Read what is kept of a name that may be tried now.

        :raises BackingOff: it failed lately.
        """
        state = await load_state(self._storage, cert_key)
        now = self._clock.now()
        # A failure from the future was noted by a clock that ran ahead: its back-off could last for months.
        if state.failed_at <= now < state.retry_at:
            raise _backing_off(name, state, now)
        return state


def _ends_order(error: Exception) -> bool:
    """Tell whether an order can't become a certificate any more, as far as its failure tells."""
    return isinstance(error, OrderFailed | InvalidCertificate) or (isinstance(error, CaProblem) and not error.passing)


def _backing_off(name: str, state: NameState, now: float) -> BackingOff:
    return BackingOff(f"{name}: failure {state.failures} in a row: {state.error}", state.retry_at - now)
