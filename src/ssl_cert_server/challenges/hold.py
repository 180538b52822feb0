"""A lease held from one call to another, that may be a different task's."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from ssl_cert_server.clock import Clock
from ssl_cert_server.storage.base import Lease, Storage
from ssl_cert_server.storage.leasing import leased

_log = structlog.get_logger()


class Hold:
    """Holds on to a lease in a task of its own, until it is let go."""

    def __init__(self, lease: Lease, task: asyncio.Task[None]) -> None:
        self.lease = lease
        self._task = task

    async def let_go(self) -> None:
        """Give the lease back."""
        self._task.cancel()
        await asyncio.wait({self._task})
        if not self._task.cancelled() and (error := self._task.exception()):
            _log.warning("challenge.lease_lost", lease=self.lease.name, reason=str(error))


async def hold(storage: Storage, name: str, clock: Clock) -> Hold:
    """Wait for the lease ``name``, and hold it. The wait has no end of its own.

    :raises StorageError: the lease can't be asked for.
    """
    held: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(_keep(storage, name, clock, held))
    either: list[asyncio.Future[Any]] = [task, held]
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not held.done():
            task.result()
        return Hold(held.result(), task)
    except BaseException:
        task.cancel()
        raise


async def _keep(storage: Storage, name: str, clock: Clock, held: asyncio.Future[Lease]) -> None:
    async with leased(storage, name, clock) as lease:
        held.set_result(lease)
        await asyncio.get_running_loop().create_future()  # until it is cancelled
