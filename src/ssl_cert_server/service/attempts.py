"""One attempt at a certificate: its order kept before it is used, what came of it kept before it is served."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import (
    AcmeError,
    BackingOff,
    CaTooSlow,
    CertServerError,
    InvalidCertificate,
    LeaseLost,
    Overloaded,
    PreflightFailed,
    StorageError,
    Unavailable,
)
from ssl_cert_server.model import Certificate, OpenOrder, Permission, Subject
from ssl_cert_server.pki.x509 import check_covers, check_not_expired
from ssl_cert_server.service.backoff import retry_at
from ssl_cert_server.service.budget.limits import Limit
from ssl_cert_server.service.budget.planner import Priority
from ssl_cert_server.service.ca_health import is_trouble, may_be_the_names
from ssl_cert_server.service.name_states import NameStates
from ssl_cert_server.service.open_orders import OpenOrders
from ssl_cert_server.service.records import IssuedRecord, load_record, save_record
from ssl_cert_server.service.state import NameState, backing_off
from ssl_cert_server.storage.base import Lease, Storage
from ssl_cert_server.storage.leasing import HeldLease

_log = structlog.get_logger()

ISSUANCE_DEADLINE = 300.0
"""Seconds after which an issuance is given up, and counts as failed; waiting for DNS comes on top."""

_ANYBODYS = Limit(100, 3_600.0)
"""Names that strangers may have made up and that no CA was asked for: so many of their failures an instance keeps."""

_STORE_TRIES = 5
_NOTED_EVERY = 60.0
_TROUBLE_STEPS = 2
"""A CA's own trouble doesn't send a name into the longest back-off: it would sleep on when the CA is back."""

_STORAGE_STEPS = 1
"""Back-off steps after a failure of storage: the name is not at fault, so the shortest back-off applies."""

_DOUBTFUL_STEPS = 3
"""Where the trouble may be with the name alone, it is tried seldom enough to waste few of the orders of the others."""


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

    @property
    def replaced(self) -> Certificate | None:
        """The certificate that is stored now, where there is one."""
        return self.predecessor.certificate if self.predecessor else None


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate, the CA it came from, and the challenge type that proved control."""

    certificate: Certificate
    directory_url: str
    challenge: str


@dataclass(frozen=True, slots=True)
class Made:
    """A certificate that was stored, and what is kept of it."""

    certificate: Certificate
    record: IssuedRecord


class CertificateAuthority(Protocol):
    """What an attempt needs of the CAs."""

    async def issue(self, wanted: Wanted, orders: OpenOrders) -> Issued:
        """Issue, going on with an open order where there is one; new ones are kept there before they are used.

        :raises AcmeError: no CA could.
        :raises Unavailable: none may be asked now.
        """


class Attempts:
    """Makes attempts, each under the lease of its certificate. ``deadline`` (seconds) ends one, and it has failed."""

    def __init__(
        self, storage: Storage, states: NameStates, ca: CertificateAuthority, clock: Clock, *, deadline: float
    ) -> None:
        self._storage = storage
        self._states = states
        self._ca = ca
        self._clock = clock
        self._deadline = deadline
        self._full_at = 0.0

    async def make(
        self, wanted: Wanted, state: NameState, lease: HeldLease, on_order: Callable[[], Awaitable[None]]
    ) -> Made:
        """Have a certificate issued, going on from ``state``, and store it.

        ``on_order`` is awaited before an order is placed or resumed: from then on there may be a certificate.

        :raises BackingOff: it failed, which is stored, or held in memory where it can't be.
        :raises Unavailable: no CA may be asked now, for no fault of the name's.
        :raises StorageError: storage failed before any CA was asked for a certificate.
        """
        subject = wanted.subject
        orders = OpenOrders(state.orders, _Records(self._states, wanted, state, lease, on_order, self._clock))
        issued = await self._issue(wanted, state, orders, lease, on_order)
        record = IssuedRecord.of_new(
            issued.certificate,
            issued.directory_url,
            issued.challenge,
            self._clock.now(),
            wanted.predecessor.record if wanted.predecessor else None,
        )
        try:
            await self._store_certificate(subject, issued.certificate, lease)
        except LeaseLost:
            raise
        except StorageError as error:
            raise await self._failed(wanted, replace(state, orders=orders.all), error, lease) from error
        _log.info(
            "certificate.issued",
            name=subject.names[0],
            fingerprint=issued.certificate.fingerprint,
            directory_url=record.directory_url,
            challenge=record.challenge,
        )
        await self._finish(subject, record, lease)
        return Made(issued.certificate, record)

    async def _finish(self, subject: Subject, record: IssuedRecord, lease: Lease) -> None:
        """Store what is known of a certificate that was stored, and drop its order.

        Where that fails, the certificate is used all the same. Its order stays open, and is settled before another one.
        """
        try:
            await save_record(self._storage, subject.cert_key, record, lease)
            await self._states.save(subject.cert_key, NameState(), lease)
        except StorageError as error:
            _log.warning("certificate.record_not_stored", name=subject.names[0], reason=str(error))

    async def settle(self, subject: Subject, stored: Certificate, state: NameState, lease: Lease) -> NameState:
        """Give ``state`` without an order that has become the ``stored`` certificate already.

        A crash right after that was written left it open; gone on with, it would give the same certificate again.

        :raises StorageError: what else is kept of the certificate can't be written.
        """
        order = next((order for order in state.orders if order.key_pem.encode() == stored.key_pem), None)
        if order is None:
            return state
        record = await load_record(self._storage, subject.cert_key, stored.fingerprint)
        if not record.directory_url:
            record = replace(record, directory_url=order.directory_url)
            await save_record(self._storage, subject.cert_key, record, lease)
        settled = replace(state, orders=())
        await self._states.save(subject.cert_key, settled, lease)
        return settled

    async def _issue(
        self,
        wanted: Wanted,
        state: NameState,
        orders: OpenOrders,
        lease: Lease,
        on_order: Callable[[], Awaitable[None]],
    ) -> Issued:
        subject = wanted.subject
        if self._states.holds(subject.cert_key):
            await self._states.save(subject.cert_key, state, lease)  # before any CA is asked again
        if state.orders:
            await on_order()
        try:
            async with asyncio.timeout(self._deadline):
                issued = await self._ca.issue(wanted, orders)
            for name in subject.names:
                check_covers(issued.certificate, name)
            check_not_expired(issued.certificate, self._clock.now())
        except AcmeError as error:
            raise await self._failed(wanted, replace(state, orders=orders.all), error, lease) from error
        except InvalidCertificate as error:
            raise await self._failed(wanted, replace(state, orders=()), error, lease) from error
        except TimeoutError as error:
            slow = CaTooSlow(f"the CA had not finished after {self._deadline:.0f} s")
            raise await self._failed(wanted, replace(state, orders=orders.all), slow, lease) from error
        except Unavailable as error:
            if orders.begun and isinstance(error, Overloaded):
                # Nothing but a back-off would keep the next request from placing another order.
                raise await self._failed(wanted, replace(state, orders=orders.all), error, lease) from error
            await self._note(wanted, replace(state, orders=orders.all), error, lease, begun=orders.begun > 0)
            raise
        except LeaseLost:
            raise
        except StorageError as error:
            if not orders.begun and not state.orders:
                raise  # no CA was asked: the next request may try at once
            raise await self._failed(wanted, replace(state, orders=orders.all), error, lease) from error
        except CertServerError:
            raise
        except Exception as error:
            # A bug of ours must not turn each request for the name into another order.
            _log.exception("certificate.crashed", name=subject.names[0])
            bug = AcmeError(f"unexpected {type(error).__name__}; the log has more")
            raise await self._failed(wanted, replace(state, orders=orders.all), bug, lease) from error
        return issued

    async def _failed(self, wanted: Wanted, state: NameState, error: Exception, lease: Lease) -> BackingOff:
        subject, now = wanted.subject, self._clock.now()
        failures, troubles = state.failures, state.troubles
        if may_be_the_names(error):
            troubles += 1
            steps = min(failures + troubles, _DOUBTFUL_STEPS)
        elif is_trouble(error):
            steps = min(failures + 1, _TROUBLE_STEPS)
        elif isinstance(error, StorageError | Overloaded):
            steps = _STORAGE_STEPS
        else:
            failures += 1
            steps = failures
        retry_after = error.retry_after if isinstance(error, AcmeError) else None
        failed = NameState(
            failures=failures,
            failed_at=now,
            retry_at=retry_at(steps, now, self._clock.random(), retry_after),
            error=str(error),
            orders=state.orders,
            troubles=troubles,
        )
        if not (_is_anybodys(subject, state, error) and self._is_one_too_many(now)):
            await self._keep_failure(wanted, failed, lease)
        name = subject.names[0]
        _log.error("certificate.failed", name=name, failures=failures, retry_at=int(failed.retry_at), reason=str(error))
        return backing_off(name, failed, now)

    async def _keep_failure(self, wanted: Wanted, failed: NameState, lease: Lease) -> None:
        try:
            await self._states.keep(wanted.subject.cert_key, failed, lease, wanted.replaced)
        except StorageError as error:
            _log.error(
                "certificate.failure_not_stored",
                name=wanted.subject.names[0],
                reason=str(error),
                remedy="it is held in memory, and stored once storage can be written",
            )

    def _is_one_too_many(self, now: float) -> bool:
        if _ANYBODYS.wait(self._full_at, now):
            return True
        self._full_at = _ANYBODYS.taken(self._full_at, now)
        return False

    async def _note(self, wanted: Wanted, state: NameState, error: Unavailable, lease: Lease, *, begun: bool) -> None:
        """Store the reason why the name waits, which ``why`` shows; no failure is counted, and earlier ones stay.

        Where a CA refused an order, this also ends the record of its being placed, which would look like a crash.
        """
        if not begun and wanted.subject.permission is Permission.PATTERN and not state.orders:
            return  # or untrusted clients, who make up names without end, would fill storage
        now = self._clock.now()
        if not state.failures and (not state.error or now - state.failed_at > _NOTED_EVERY):
            state = replace(state, failed_at=now, error=str(error), expected_at=now + error.retry_after)
        elif not begun:
            return
        await self._states.keep(wanted.subject.cert_key, state, lease, wanted.replaced)

    async def _store_certificate(self, subject: Subject, certificate: Certificate, lease: Lease) -> None:
        """Write what the CA gave, with patience: until it is written, only the open order leads back to it."""
        for attempt in range(1, _STORE_TRIES + 1):
            try:
                await self._storage.put(subject.cert_key, certificate.stored, lease=lease)
                return
            except LeaseLost:
                raise
            except StorageError as error:
                _log.error("certificate.not_stored", name=subject.names[0], attempt=attempt, reason=str(error))
                if attempt == _STORE_TRIES:
                    raise
                await self._clock.sleep(attempt * (1 + self._clock.random()))


@dataclass(frozen=True, slots=True)
class _Records:
    """See :class:`~ssl_cert_server.service.open_orders.OrderRecords`; ``state`` is what the attempt began with."""

    states: NameStates
    wanted: Wanted
    state: NameState
    lease: HeldLease
    on_order: Callable[[], Awaitable[None]]
    clock: Clock

    async def announce_order(self, orders: tuple[OpenOrder, ...]) -> None:
        """Store the due entry, and the state with the time at which an order is placed."""
        self.states.check_room()
        await self.on_order()
        placing = replace(self.state, orders=orders, placing_at=self.clock.now())
        await self.states.save(self.wanted.subject.cert_key, placing, self.lease)

    def check_lease(self) -> None:
        """Check the lease of the name's certificate."""
        self.lease.check()

    async def save_orders(self, orders: tuple[OpenOrder, ...]) -> None:
        """Store the state with these orders, or hold it in memory."""
        state = replace(self.state, orders=orders)
        await self.states.keep(self.wanted.subject.cert_key, state, self.lease, self.wanted.replaced)


def _is_anybodys(subject: Subject, state: NameState, error: Exception) -> bool:
    """Tell whether a stranger may have made the name up: a pattern permits it, and no CA was asked for it."""
    return (
        subject.permission is Permission.PATTERN
        and isinstance(error, PreflightFailed)
        and not state.failures
        and not state.orders
    )
