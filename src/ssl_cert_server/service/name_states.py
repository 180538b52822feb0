"""The states of names, as storage has them or, where one can't be stored, as this instance remembers them."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, replace

import structlog

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import StorageError
from ssl_cert_server.model import OpenOrder
from ssl_cert_server.service.state import NameState, load_state, save_state
from ssl_cert_server.storage.base import Lease, Storage

_log = structlog.get_logger()

_MOST_HELD = 10_000
"""States in memory. Where there are more, no order is placed: its record would have no place to go."""

_PAUSES = (2.0, 60.0)
"""Seconds between two tries to store what is held: the first, and the longest."""

_LEASE = 30.0

_LAST_TRY = 5.0
"""Seconds for which a server that stops tries to store what is held."""

_LAST_PASSES = 10
"""Passes over what is held in that time, each up to the next state that can't be stored."""


@dataclass(frozen=True, slots=True)
class _Held:
    state: NameState
    at: float
    """Unix seconds."""


class NameStates:
    """Loads and saves the states of names.

    An order, or a failure, must not be forgotten because storage fails: the next request would place another order. So
    a state that can't be stored is held in memory, counts for whatever this instance does, and is stored by :meth:`run`
    as soon as that works. A peer that took over meanwhile, and stored something later, is not overwritten.
    """

    def __init__(self, storage: Storage, clock: Clock) -> None:
        self._storage = storage
        self._clock = clock
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._anything_held = asyncio.Event()

    async def load(self, cert_key: str) -> NameState:
        """Return the state of the name whose certificate is stored under ``cert_key``.

        :raises StorageError: it can't be read.
        """
        stored = await load_state(self._storage, cert_key)
        held = self._held.get(cert_key)
        return stored if held is None else _merged(stored, held)

    async def save(self, cert_key: str, state: NameState, lease: Lease) -> None:
        """Store a state.

        :raises StorageError: it can't be stored, and is not held in memory.
        """
        await save_state(self._storage, cert_key, state, lease)
        self.drop(cert_key)

    async def keep(self, cert_key: str, state: NameState, lease: Lease) -> None:
        """Store a state that must not be forgotten.

        :raises StorageError: it can't be stored now; it is held in memory.
        """
        try:
            await self.save(cert_key, state, lease)
        except BaseException:
            self._hold(cert_key, state)
            raise

    def holds(self, cert_key: str) -> bool:
        """Return whether a state is held in memory that could not be stored."""
        return cert_key in self._held

    def drop(self, cert_key: str) -> None:
        """Drop the state that is held in memory, if there is one."""
        self._held.pop(cert_key, None)

    def check_room(self) -> None:
        """Check that one more state could be held in memory.

        :raises StorageError: too many are held already.
        """
        if len(self._held) >= _MOST_HELD:
            raise StorageError(f"{_MOST_HELD} names wait for their states to be stored; no order is placed before that")

    async def run(self) -> None:
        """Store what is held in memory, again and again until it is stored; never returns."""
        pause, longest = _PAUSES
        while True:
            await self._anything_held.wait()
            await self._clock.sleep(pause * (1 + self._clock.random()))
            pause = _PAUSES[0] if await self._store_held() else min(pause * 2, longest)

    async def close(self) -> None:
        """Try once more to store what is held: the next process would place another order for each of these names."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_TRY):
                for _ in range(_LAST_PASSES):
                    if await self._store_held():
                        break
        if self._held:
            _log.error("state.lost", held=len(self._held), cert_key=next(iter(self._held)))

    async def _store_held(self) -> bool:
        """Store what can be stored, and return whether storage worked."""
        for cert_key in [*self._held]:
            try:
                await self._store_one(cert_key)
            except StorageError as error:
                _log.warning("state.not_stored", cert_key=cert_key, held=len(self._held), reason=str(error))
                if cert_key in self._held:
                    self._held.move_to_end(cert_key)  # one that can't be stored must not keep the others from it
                return False
        if not self._held:
            self._anything_held.clear()
        return True

    async def _store_one(self, cert_key: str) -> None:
        lease = await self._storage.acquire(f"certificates/{cert_key}", _LEASE)
        if lease is None:
            return  # whoever works on the name stores its state
        try:
            if cert_key in self._held:
                await self.save(cert_key, await self.load(cert_key), lease)
                _log.info("state.stored", cert_key=cert_key)
        finally:
            with suppress(StorageError):  # it lapses by itself
                await self._storage.release(lease)

    def _hold(self, cert_key: str, state: NameState) -> None:
        if len(self._held) >= _MOST_HELD and cert_key not in self._held and not state.orders:
            return
        self._held[cert_key] = _Held(state, self._clock.now())
        self._anything_held.set()


def _merged(stored: NameState, held: _Held) -> NameState:
    """Return what counts of a stored state and one that could not be stored: the later one, with the orders of both."""
    latest = stored if max(stored.failed_at, stored.placing_at) > held.at else held.state
    orders: dict[str, OpenOrder] = {}
    for order in sorted((*stored.orders, *held.state.orders), key=lambda order: order.placed_at):
        orders[order.directory_url] = order
    return replace(latest, orders=tuple(orders.values()))
