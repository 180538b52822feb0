"""ACME certificates for names: from storage, else issued on the fly, and renewed.

One issuance per certificate at a time over all instances (a lease), a bound on those that run side by side and on
those that wait, failures remembered with back-off, and nothing asked of a CA while storage can't be written.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Protocol, TypeVar

import structlog

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import AskFailed, BudgetSpent, InvalidCertificate, NotPermitted, Overloaded
from ssl_cert_server.model import Certificate, CertificateType, Permission, Subject
from ssl_cert_server.pki.x509 import parse_certificate
from ssl_cert_server.service.attempts import Attempts, Predecessor, Wanted
from ssl_cert_server.service.budget.planner import Priority
from ssl_cert_server.service.flights import Flights
from ssl_cert_server.service.name_states import NameStates
from ssl_cert_server.service.records import IssuedRecord, load_record
from ssl_cert_server.service.remembered import RememberedNames
from ssl_cert_server.service.state import check_not_backing_off, settle_interrupted
from ssl_cert_server.service.turns import Turns
from ssl_cert_server.service.usable import check_issued, keys_elsewhere
from ssl_cert_server.storage.base import Storage
from ssl_cert_server.storage.leasing import leased

_log = structlog.get_logger()

_WAITING = 1000
_WAIT_DEADLINE = 600.0
_OVERLOADED_RETRY = 30.0
_BORROWED = 10_000
_BORROWED_FOR = 3_600.0

_T = TypeVar("_T")


class Gate(Protocol):
    """What issuance needs of ``ask``."""

    async def permitted(self, name: str, *, fresh: bool = False) -> bool:
        """Tell whether a name may be issued for; ``fresh`` asks again where it was permitted before.

        :raises AskFailed: there is no verdict.
        """


class Upkeep(Protocol):
    """Who looks after certificates, and has to know of them."""

    async def expect(self, cert_key: str) -> None:
        """Hear that a certificate is about to be issued; whatever happens next, it is looked after.

        :raises StorageError: that can't be kept.
        """

    async def stored(self, subject: Subject, certificate: Certificate, record: IssuedRecord | None) -> None:
        """Hear of a certificate that was just stored; where there is no ``record``, by a peer that was faster."""

    async def publish(self, subject: Subject, certificate: Certificate) -> None:
        """Use a certificate that was stored earlier, and announce it to the other instances.

        :raises StorageError: it can't be announced.
        """

    def seen(self, subject: Subject, certificate: Certificate) -> None:
        """Hear of a usable certificate that was read."""


class AcmeCertificates:
    """The issuer behind the ACME rule."""

    type = CertificateType.ACME

    def __init__(
        self,
        storage: Storage,
        states: NameStates,
        attempts: Attempts,
        turns: Turns,
        clock: Clock,
        *,
        ask: Gate | None = None,
        upkeep: Upkeep,
    ) -> None:
        self._storage = storage
        self._states = states
        self._attempts = attempts
        self._turns = turns
        self._clock = clock
        self._ask = ask
        self._upkeep = upkeep
        self._borrowed = RememberedNames(clock, _BORROWED)
        self._issuances: Flights[Certificate] = Flights(_WAITING)

    async def obtain(self, name: str, subject: Subject, priority: Priority = Priority.HANDSHAKE) -> Certificate:
        certificate = await self.stored(subject, name)
        if certificate is not None:
            return certificate
        certificate = await self._elsewhere(name, subject)
        if certificate is not None:
            await self._issue_beside(subject, certificate)
            return certificate
        await self._check_permitted(subject)
        await self._check_not_backing_off(subject)
        return await self._join(subject, priority, replaces="")

    async def renew(self, subject: Subject, replaces: str, priority: Priority = Priority.RENEWAL) -> Certificate:
        """Issue a successor of the certificate with the fingerprint ``replaces``, unless a peer did so already.

        :raises NotPermitted: ``ask`` says no by now.
        :raises CertServerError: it failed; an Unavailable tells when to try again.
        """
        await self._check_permitted(subject, fresh=True)
        return await self._join(subject, priority, replaces)

    def fresh_until(self, certificate: Certificate) -> float:
        if certificate.fingerprint in self._borrowed:  # by then there may be one of the name's own
            return min(certificate.not_after, self._clock.now() + _BORROWED_FOR)
        return certificate.not_after

    async def stored(self, subject: Subject, name: str | None = None) -> Certificate | None:
        """Read the usable certificate for a subject, or None. It covers ``name``, or all names of the subject.

        :raises StorageError: it can't be read.
        """
        certificate = await self._read(subject.cert_key, (name,) if name else subject.names)
        if certificate is not None:
            self._upkeep.seen(subject, certificate)
        return certificate

    async def publish(self, subject: Subject, certificate: Certificate) -> None:
        """Have every instance use a stored certificate; whoever stored it may have died before it was announced.

        :raises StorageError: it can't be announced.
        """
        if self._usable(subject.cert_key, certificate, subject.names):
            await self._upkeep.publish(subject, certificate)

    async def close(self) -> None:
        """Give up what is under way; open orders are kept, and gone on with later."""
        await self._issuances.close()

    async def _elsewhere(self, name: str, subject: Subject) -> Certificate | None:
        """Look for a usable certificate from before a wildcard was configured, or from while one was."""
        for cert_key in keys_elsewhere(name, subject):
            certificate = await self._read(cert_key, (name,))
            if certificate is not None:
                return certificate
        return None

    async def _issue_beside(self, subject: Subject, elsewhere: Certificate) -> None:
        """Have a subject's own certificate issued while another one answers for it, for a while at a time.

        :raises NotPermitted: ``ask`` says no.
        """
        self._borrowed.add(elsewhere.fingerprint, _BORROWED_FOR)
        with suppress(AskFailed):  # without a verdict it serves on
            await self._check_permitted(subject)
            if not self._issuances.full:
                self._issuances.start(subject.cert_key, lambda: self._issue_unasked(subject))

    async def _read(self, cert_key: str, names: tuple[str, ...]) -> Certificate | None:
        certificate = await self._parsed(cert_key)
        return certificate if certificate and self._usable(cert_key, certificate, names) else None

    async def _parsed(self, cert_key: str) -> Certificate | None:
        pem = await self._storage.get(cert_key)
        if pem is None:
            return None
        try:
            return parse_certificate(pem)
        except InvalidCertificate as error:
            _log.warning("certificate.unusable", cert_key=cert_key, reason=str(error))
            return None

    def _usable(self, cert_key: str, certificate: Certificate, names: tuple[str, ...]) -> bool:
        try:
            check_issued(certificate, names, self._clock.now())
        except InvalidCertificate as error:
            _log.warning("certificate.unusable", cert_key=cert_key, reason=str(error))
            return False
        return True

    async def _check_permitted(self, subject: Subject, *, fresh: bool = False) -> None:
        if subject.permission is not Permission.ASK:
            return
        if self._ask is None or not await self._ask.permitted(subject.names[0], fresh=fresh):
            raise NotPermitted(f"{subject.names[0]} is not permitted here")

    async def _check_not_backing_off(self, subject: Subject) -> None:
        state = await self._states.load(subject.cert_key)
        check_not_backing_off(subject.names[0], state, self._clock.now())

    async def _join(self, subject: Subject, priority: Priority, replaces: str) -> Certificate:
        cert_key = subject.cert_key
        # Renewals come a few at a time, and some of them can't wait.
        if priority is Priority.HANDSHAKE and self._issuances.full and cert_key not in self._issuances:
            raise Overloaded(f"{subject.names[0]}: {_WAITING} issuances wait already", _OVERLOADED_RETRY)
        joined = cert_key in self._issuances
        try:
            return await self._issuances.join(cert_key, lambda: self._issue(subject, priority, replaces))
        except BudgetSpent:
            if not joined:
                raise
        # Whoever began it may have had to leave more of the budget to others.
        return await self._issuances.join(cert_key, lambda: self._issue(subject, priority, replaces))

    async def _issue_unasked(self, subject: Subject) -> Certificate:
        """Issue what nobody waits for."""
        await self._check_not_backing_off(subject)
        return await self._issue(subject, Priority.PRELOAD, "")

    async def _issue(self, subject: Subject, priority: Priority, replaces: str) -> Certificate:
        name, cert_key = subject.names[0], subject.cert_key
        async with self._patiently(name, leased(self._storage, f"certificates/{cert_key}", self._clock)) as lease:
            certificate, record = await self._parsed(cert_key), None
            if not (
                certificate
                and certificate.fingerprint != replaces
                and self._usable(cert_key, certificate, subject.names)
            ):
                state = settle_interrupted(await self._states.load(cert_key))
                check_not_backing_off(name, state, self._clock.now())
                # Who waits for a peer's lease keeps no turn from the other names.
                async with self._patiently(name, self._turns.turn(priority, suspect=state.failures > 0)):
                    await self._storage.check_writable()
                    if certificate is not None:
                        state = await self._attempts.settle(subject, certificate, state, lease)
                    wanted = Wanted(subject, priority, await self._predecessor(subject, certificate))
                    made = await self._attempts.make(wanted, state, lease, lambda: self._expect(wanted))
                    certificate, record = made.certificate, made.record
            else:
                self._states.drop(cert_key)  # a peer stored the certificate, and its state with it
        await self._upkeep.stored(subject, certificate, record)
        return certificate

    async def _expect(self, wanted: Wanted) -> None:
        if wanted.predecessor is None:
            await self._upkeep.expect(wanted.subject.cert_key)

    async def _predecessor(self, subject: Subject, certificate: Certificate | None) -> Predecessor | None:
        if certificate is None:
            return None
        return Predecessor(certificate, await load_record(self._storage, subject.cert_key, certificate.fingerprint))

    @asynccontextmanager
    async def _patiently(self, name: str, turn: AbstractAsyncContextManager[_T]) -> AsyncIterator[_T]:
        """Wait for something to be free, with a deadline on the wait alone."""
        try:
            async with asyncio.timeout(_WAIT_DEADLINE) as waiting, turn as held:
                waiting.reschedule(None)
                yield held
        except TimeoutError as error:
            raise Overloaded(f"{name}: not its turn within {_WAIT_DEADLINE:.0f} s", _OVERLOADED_RETRY) from error
