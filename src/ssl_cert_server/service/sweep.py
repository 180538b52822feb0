"""Forgets what is kept of names that nobody asks for any more: strangers bring up names without end."""

from __future__ import annotations

import structlog

from ssl_cert_server.clock import Clock
from ssl_cert_server.service.state import NameState, load_state, save_state
from ssl_cert_server.service.verdicts import SharedVerdicts
from ssl_cert_server.storage.base import Storage
from ssl_cert_server.storage.passed_over import PassedOver
from ssl_cert_server.storage.removals import RemovalSweep

_log = structlog.get_logger()

_DAY = 86_400.0
_KEPT = 30 * _DAY
_LEASE = 30.0
_FOLDER = "_state"


class StateSweep:
    """Looks at every name's state, and at what ``ask`` permitted, once a day."""

    def __init__(self, storage: Storage, clock: Clock) -> None:
        self._verdicts = SharedVerdicts(storage, clock)
        self._removals = RemovalSweep(storage, clock)
        self._storage = storage
        self._clock = clock

    async def run(self) -> None:
        """Sweep, for ever."""
        while True:
            await self._clock.sleep(_DAY * (1 + self._clock.random() / 10))
            swept = await self.sweep()
            await self._verdicts.sweep()
            await self._removals.sweep()
            if swept:
                _log.info("state.swept", names=swept)

    async def sweep(self) -> int:
        """Forget the states that are of no use, and give their number; what can't be read is passed over.

        :raises StorageError: storage itself can't be read or written.
        """
        swept = 0
        passed = PassedOver()
        async for key in self._storage.list(_FOLDER):
            cert_key = key.removeprefix(f"{_FOLDER}/")
            with passed.unreadable():
                if self._is_stale(await load_state(self._storage, cert_key)):
                    swept += await self._forget(cert_key)
        passed.tell(_FOLDER)
        return swept

    async def _forget(self, cert_key: str) -> bool:
        """Look again under the lease that issuing takes: it may have failed anew just now."""
        lease = await self._storage.acquire(f"certificates/{cert_key}", _LEASE)
        if lease is None:
            return False
        try:
            stale = self._is_stale(await load_state(self._storage, cert_key))
            if stale:
                await save_state(self._storage, cert_key, NameState(), lease)
            return stale
        finally:
            await self._storage.release(lease)

    def _is_stale(self, state: NameState) -> bool:
        return not state.orders and max(state.failed_at, state.retry_at, state.placing_at) < self._clock.now() - _KEPT
