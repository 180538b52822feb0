"""The states of names, as storage has them or, where one can't be stored, as this instance remembers them."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, replace

import structlog

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import InvalidCertificate, StorageError
from ssl_cert_server.model import Certificate, OpenOrder
from ssl_cert_server.pki.x509 import parse_certificate
from ssl_cert_server.service.state import HELD_FOR, NameState, load_state, save_state
from ssl_cert_server.storage.base import Lease, Storage

_log = structlog.get_logger()

_MOST_HELD = 10_000
"""States in memory. Where there are more, no order is placed: its record would have no place to go."""

_PAUSES = (2.0, HELD_FOR / 3)
"""Seconds between two tries to store what is held: the first, and the longest. Up to as much is added at random."""

_LEASE = 30.0

_LAST_TRY = 5.0
"""Seconds for which a server that stops tries to store what is held."""

_MOST_IN_A_ROW = 3
"""States that can't be stored, after which the others are left for the next pass: storage itself fails."""

_LAST_PASSES = 10
"""Passes over what is held in that time, each up to several states in a row that can't be stored."""

_LAST_PAUSE = 0.2
"""Seconds between these passes."""


@dataclass(frozen=True, slots=True)
class _Held:
    state: NameState
    at: float
    """Unix seconds."""
    replaced: Certificate | None
    """The certificate that was stored when the attempt began, which led to this state."""


class NameStates:
    """Loads and saves the states of names.

    An order, or a failure, must not be forgotten because storage fails: the next request would place another order. So
    a state that can't be stored is held in memory, counts for whatever this instance does, and is stored by :meth:`run`
    as soon as that works. A peer that took over meanwhile is not overwritten: a state that it stored later counts, with
    the open orders of both, and once it stored a certificate, what is held is dropped.
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
        if held is None:
            return stored
        if await self._is_outdated(cert_key, held):
            if self._held.get(cert_key) is held:
                self.drop(cert_key)
            return stored
        return _merged(stored, held)

    async def save(self, cert_key: str, state: NameState, lease: Lease) -> None:
        """Store a state.

        :raises StorageError: it can't be stored, and is not held in memory.
        """
        await save_state(self._storage, cert_key, state, lease)
        self.drop(cert_key)

    async def keep(self, cert_key: str, state: NameState, lease: Lease, replaced: Certificate | None = None) -> None:
        """Store a state that must not be forgotten.

        ``replaced`` is the certificate that was stored when the attempt began: another one there is a peer's success.

        :raises StorageError: it can't be stored now; it is held in memory.
        """
        try:
            await self.save(cert_key, state, lease)
        except BaseException:
            self._hold(cert_key, state, replaced)
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
                    await self._store_held()
                    if not self._held:
                        break
                    await self._clock.sleep(_LAST_PAUSE)  # a peer may have a lease for a moment
        if self._held:
            _log.error("state.lost", held=len(self._held), cert_key=next(iter(self._held)))

    async def _store_held(self) -> bool:
        """Store what can be stored, and return whether storage worked."""
        failed = in_a_row = 0
        for cert_key in [*self._held]:
            try:
                await self._store_one(cert_key)
                in_a_row = 0
            except StorageError as error:
                _log.warning("state.not_stored", cert_key=cert_key, held=len(self._held), reason=str(error))
                if cert_key in self._held:
                    self._held.move_to_end(cert_key)  # one that can't be stored must not keep the others from it
                failed, in_a_row = failed + 1, in_a_row + 1
                if in_a_row >= _MOST_IN_A_ROW:
                    break
        if not self._held:
            self._anything_held.clear()
        return not failed

    async def _store_one(self, cert_key: str) -> None:
        lease = await self._storage.acquire(f"certificates/{cert_key}", _LEASE)
        if lease is None:
            return  # whoever works on the name stores its state
        try:
            state = await self.load(cert_key)
            if cert_key in self._held:  # not where a peer stored a certificate meanwhile
                await self.save(cert_key, state, lease)
                _log.info("state.stored", cert_key=cert_key)
        finally:
            with suppress(StorageError):  # it lapses by itself
                await self._storage.release(lease)

    async def _is_outdated(self, cert_key: str, held: _Held) -> bool:
        """Return whether a peer stored a certificate after the attempt began, which led to a held state.

        An older one is no success: storage went back in time.
        """
        current = _parsed(await self._storage.get(cert_key))
        if current is None or current.not_after <= self._clock.now():
            return False
        before = held.replaced
        return before is None or (current.fingerprint != before.fingerprint and current.not_before >= before.not_before)

    def _hold(self, cert_key: str, state: NameState, replaced: Certificate | None) -> None:
        if len(self._held) >= _MOST_HELD and cert_key not in self._held and not state.orders:
            return
        self._held[cert_key] = _Held(state, self._clock.now(), replaced)
        self._anything_held.set()


def _merged(stored: NameState, held: _Held) -> NameState:
    """Return what counts of a stored state and one that could not be stored: the later one, with the orders of both."""
    latest = stored if max(stored.failed_at, stored.placing_at) > held.at else held.state
    orders: dict[str, OpenOrder] = {}
    for order in sorted((*stored.orders, *held.state.orders), key=lambda order: order.placed_at):
        orders[order.directory_url] = order
    return replace(latest, orders=tuple(orders.values()))


def _parsed(value: bytes | None) -> Certificate | None:
    try:
        return parse_certificate(value) if value else None
    except InvalidCertificate:
        return None
