"""Work done under a lease: waited for, kept alive while the work goes on, and given back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import structlog

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import LeaseLost, StorageError
from ssl_cert_server.storage.base import Lease, Storage

_log = structlog.get_logger()

LEASE_SECONDS = 30.0
"""How long a lease outlives a holder that stopped renewing it."""

_RENEW_EVERY = LEASE_SECONDS / 3
_LAST_TRY = 1.0
"""Seconds that storage has to renew a lease that lapsed; it may still be free."""
_POLL = 0.5


@dataclass(frozen=True, slots=True)
class HeldLease(Lease):
    """A lease that its holder can check without a call to storage."""

    term: Term = field(compare=False, repr=False)

    def check(self) -> None:
        """Check right before a step that can't be undone and that storage doesn't fence, such as placing an order.

        A process that was stopped, or a machine that was suspended, goes on where it was: nothing else need have told
        it that the lease lapsed meanwhile. Between this check and the step nothing should be awaited.

        :raises LeaseLost: the lease was last renewed too long ago, so another instance may have it.
        """
        if self.term.left <= 0:
            raise LeaseLost(f"the lease {self.name} was not renewed for {LEASE_SECONDS:.0f} s; another may have it now")


class Term:
    """The time for which a lease is certainly held: counted from when storage was asked, not from when it answered."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until = clock.boottime() + LEASE_SECONDS

    @property
    def left(self) -> float:
        """Seconds; none, or less, once it may have lapsed."""
        return self._until - self._clock.boottime()

    def extend(self, asked_at: float) -> None:
        """Note that storage was asked to renew the lease at that time, and did."""
        self._until = asked_at + LEASE_SECONDS


@asynccontextmanager
async def leased(storage: Storage, name: str, clock: Clock) -> AsyncIterator[HeldLease]:
    """Wait for the lease ``name``, hold it during the block, and release it.

    The wait has no end of its own: put a deadline around it. Where the lease is lost, the block is cancelled; a block
    that can't be cancelled at that very moment asks :meth:`HeldLease.check`.

    :raises LeaseLost: another instance took over during the block, or may have: the lease could not be renewed in time.
    :raises StorageError: the lease can't be asked for.
    """
    lease = await _wait_for(storage, name, clock)
    try:
        async with asyncio.TaskGroup() as group:
            renewing = group.create_task(_keep(storage, lease, clock))
            yield lease
            renewing.cancel()
    except BaseExceptionGroup as failures:
        # One task beside the block: what it or the block raised is the whole story.
        first = failures.exceptions[0]
        raise first from first.__cause__
    finally:
        await asyncio.shield(_release(storage, lease))


async def _wait_for(storage: Storage, name: str, clock: Clock) -> HeldLease:
    while True:
        term = Term(clock)
        lease = await _acquire(storage, name)
        if lease is not None:
            return HeldLease(lease.name, lease.token, term)
        await clock.sleep(_POLL * (1 + clock.random()))


async def _acquire(storage: Storage, name: str) -> Lease | None:
    """Acquire a lease; where the caller is cancelled meanwhile, release it, or nobody could have it until it lapses."""
    acquiring = asyncio.create_task(storage.acquire(name, LEASE_SECONDS))
    try:
        return await asyncio.shield(acquiring)
    except asyncio.CancelledError:
        await asyncio.shield(_release_acquired(storage, acquiring))
        raise


async def _release_acquired(storage: Storage, acquiring: asyncio.Task[Lease | None]) -> None:
    with suppress(StorageError):
        lease = await acquiring
        if lease is not None:
            await storage.release(lease)


async def _keep(storage: Storage, lease: HeldLease, clock: Clock) -> None:
    while True:
        await clock.sleep(min(_RENEW_EVERY, max(lease.term.left, 0.0)))
        asked_at = clock.boottime()
        try:
            async with asyncio.timeout(max(lease.term.left, _LAST_TRY)):
                await storage.renew(lease, LEASE_SECONDS)
        except LeaseLost:
            raise
        except (StorageError, TimeoutError) as error:
            # It may be back before the lease lapses; what is written under a lease that did is refused.
            _log.warning("lease.not_renewed", lease=lease.name, reason=str(error) or "no answer in time")
            lease.check()
        else:
            lease.term.extend(asked_at)


async def _release(storage: Storage, lease: Lease) -> None:
    with suppress(StorageError):  # it lapses by itself
        await storage.release(lease)
