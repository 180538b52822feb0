"""Work done under a lease: waited for, kept alive while the work goes on, and given back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import structlog

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import LeaseLost, StorageError
from ssl_cert_server.storage.base import Lease, Storage

_log = structlog.get_logger()

LEASE_SECONDS = 30.0
"""How long a lease outlives a holder that stopped renewing it."""

_RENEW_EVERY = LEASE_SECONDS / 3
_POLL = 0.5


@asynccontextmanager
async def leased(storage: Storage, name: str, clock: Clock) -> AsyncIterator[Lease]:
    """Wait for the lease ``name``, hold it during the block, and release it.

    The wait has no end of its own: put a deadline around it. Where the lease is lost, the block is cancelled.

    :raises LeaseLost: another instance took over during the block.
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


async def _wait_for(storage: Storage, name: str, clock: Clock) -> Lease:
    while (lease := await storage.acquire(name, LEASE_SECONDS)) is None:
        await clock.sleep(_POLL * (1 + clock.random()))
    return lease


async def _keep(storage: Storage, lease: Lease, clock: Clock) -> None:
    while True:
        await clock.sleep(_RENEW_EVERY)
        try:
            await storage.renew(lease, LEASE_SECONDS)
        except LeaseLost:
            raise
        except StorageError as error:
            # It may be back before the lease lapses; what is written under a lease that did is refused.
            _log.warning("lease.not_renewed", lease=lease.name, reason=str(error))


async def _release(storage: Storage, lease: Lease) -> None:
    with suppress(StorageError):  # it lapses by itself
        await storage.release(lease)
