"""Remembers, for all instances, how late it was when anything was planned: that tells of a clock that was ahead."""

from __future__ import annotations

from collections.abc import Sequence

from ssl_cert_server.clock import Clock
from ssl_cert_server.storage.base import Due, Storage

CLOCK = "clock"

_HOUR = 3600.0


class ClockMarks:
    """Marks each hour in which something is planned or taken up, before it is.

    Marks stand in the due index, as what they tell of does: the key is the hour, the rank says when what was planned
    in it was looked through (0: never). Each hour has a mark of its own, so that an instance with a right clock
    doesn't hide what one with a wrong clock did.
    """

    def __init__(self, storage: Storage, clock: Clock) -> None:
        self._storage = storage
        self._clock = clock
        self._noted = -1

    async def note(self) -> float:
        """Give the time (Unix seconds), once it is kept that it was this late.

        :raises StorageError: that can't be kept.
        """
        now = self._clock.now()
        hour = int(now // _HOUR)
        if hour != self._noted:
            await self._storage.schedule(CLOCK, [Due(str(hour), hour * _HOUR)])
            self._noted = hour
        return now

    async def ahead(self) -> Sequence[Due]:
        """Give the marks of hours that have not come, in which what was planned is to be looked through now.

        Those of hours that are over are removed.

        :raises StorageError: marks can't be read or removed.
        """
        now = self._clock.now()
        marks = [mark async for mark in self._storage.list_due(CLOCK)]
        over = [mark.key for mark in marks if mark.at < now - 2 * _HOUR]
        if over:
            await self._storage.unschedule(CLOCK, over)
        return [mark for mark in marks if mark.at > now + _HOUR and not mark.rank <= now < mark.rank + _HOUR]

    async def looked_through(self, marks: Sequence[Due]) -> None:
        """Hear that what was planned in these hours was looked through.

        Whoever made a mark, and has a wrong clock still, makes none again before its hour is over: so it is all looked
        through once more after an hour, and then the mark goes.

        :raises StorageError: that can't be kept.
        """
        now = self._clock.now()
        first = [Due(mark.key, mark.at, now) for mark in marks if not 0 < mark.rank <= now]
        if first:
            await self._storage.schedule(CLOCK, first)
        again = [mark.key for mark in marks if 0 < mark.rank <= now]
        if again:
            await self._storage.unschedule(CLOCK, again)
