"""Who goes next: a few at a time, the urgent first, and those that failed before never in everybody's way."""

from __future__ import annotations

import asyncio
import bisect
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import Overloaded
from ssl_cert_server.service.budget.planner import Priority

_WAITING = 1000
_SUSPECTS_PART = 4
_RETRY = 30.0


@dataclass(order=True, slots=True)
class _Waiter:
    priority: Priority
    arrival: int
    granted: asyncio.Future[None] = field(compare=False)


@dataclass(slots=True)
class _Lane:
    """Those with the same prospects: how many may go at once, and may wait; those that wait stand in order."""

    slots: int
    places: int
    going: int = 0
    waiting: list[_Waiter] = field(default_factory=list)


class Turns:
    """At most ``slots`` go at once: the lowest priority first, then who came first.

    Suspects have a quarter of the slots, and of the places of those that wait, so that names which fail slowly can't
    fill them up. They may stand still while slots are free; the others never do.
    """

    def __init__(self, slots: int, clock: Clock, *, max_waiting: int = _WAITING) -> None:
        """``max_waiting`` is for handshakes whose names aren't suspect."""
        self._slots = slots
        self._clock = clock
        self._arrivals = itertools.count()
        self._others = _Lane(slots, max_waiting)
        self._suspects = _Lane(max(1, slots // _SUSPECTS_PART), max(1, max_waiting // _SUSPECTS_PART))

    @asynccontextmanager
    async def turn(self, priority: Priority, *, suspect: bool) -> AsyncIterator[None]:
        """Wait for a turn, and have it during the block. The wait has no end of its own: put a deadline around it.

        :raises Overloaded: too many wait already.
        """
        lane = self._suspects if suspect else self._others
        await self._enter(lane, priority)
        try:
            yield
        finally:
            self._leave(lane)

    async def _enter(self, lane: _Lane, priority: Priority) -> None:
        # Who isn't a visitor comes a few at a time anyway, and has no page to load again.
        if priority is Priority.HANDSHAKE and self._must_wait(lane) and len(lane.waiting) >= lane.places:
            raise Overloaded(f"{lane.places} issuances wait for their turn already", self._retry_after())
        waiter = _Waiter(priority, next(self._arrivals), asyncio.get_running_loop().create_future())
        bisect.insort(lane.waiting, waiter)
        self._grant()
        try:
            await waiter.granted
        except asyncio.CancelledError:
            if not waiter.granted.cancelled():  # it was its turn just now
                self._leave(lane)
            elif waiter in lane.waiting:
                lane.waiting.remove(waiter)
            raise

    def _must_wait(self, lane: _Lane) -> bool:
        return bool(lane.waiting) or lane.going >= lane.slots or self._none_free

    @property
    def _none_free(self) -> bool:
        return self._others.going + self._suspects.going >= self._slots

    def _leave(self, lane: _Lane) -> None:
        lane.going -= 1
        self._grant()

    def _grant(self) -> None:
        """Let go whoever may."""
        while not self._none_free:
            open_lanes = [lane for lane in (self._others, self._suspects) if lane.waiting and lane.going < lane.slots]
            if not open_lanes:
                return
            lane = min(open_lanes, key=lambda lane: lane.waiting[0])
            waiter = lane.waiting.pop(0)
            if not waiter.granted.cancelled():  # one that was hasn't noticed yet
                lane.going += 1
                waiter.granted.set_result(None)

    def _retry_after(self) -> float:
        return _RETRY * (1 + self._clock.random())
