"""Leaving a service that fails alone for a while, and looking now and then whether it is back."""

from __future__ import annotations

from ssl_cert_server.clock import Clock

_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 30.0
_SPREAD = 0.25
_NAMES = 3


class Breaker:
    """Closed while the service works; open after it failed, for 1 s, and twice as long each time, up to 30 s.

    After each pause one question goes through. ``probe`` is how long (seconds) that one may take; the next is let
    through then, whatever became of it.

    A question is let through by :meth:`admit`, whose result is given back with its outcome: questions that were under
    way when the breaker opened neither prolong the pause nor end it.
    """

    def __init__(self, clock: Clock, *, probe: float) -> None:
        self._clock = clock
        self._probe = probe
        self._pauses = 0
        self._until = 0.0
        self._round = 0
        self._failed: set[str] = set()

    @property
    def pause(self) -> float:
        """Seconds before which nobody is let through; 0 where somebody is."""
        return max(0.0, self._until - self._clock.monotonic()) if self._pauses else 0.0

    def admit(self) -> int:
        """Let a question through, where ``pause`` is 0."""
        if self._pauses:
            self._until = self._clock.monotonic() + self._probe
        return self._round

    def worked(self, admitted: int) -> bool:
        """Note an answer; true where it closes the breaker."""
        if admitted != self._round:
            return False
        self._failed.clear()
        if not self._pauses:
            return False
        self._pauses = 0
        self._round += 1
        return True

    def failed(self, admitted: int, name: str, *, answered: bool) -> bool:
        """Note a failure; true where it opens a breaker that was closed.

        Where the service ``answered`` at all, it may have stumbled over that one name, and a name that does so must
        not hold up the others: it opens only at the third name in a row.
        """
        if admitted != self._round:
            return False
        opened = not self._pauses
        if opened:
            self._failed.add(name)
            if answered and len(self._failed) < _NAMES:
                return False
        self._failed.clear()
        pause = min(_FIRST_PAUSE * 2**self._pauses, _LONGEST_PAUSE) * (1 - _SPREAD * self._clock.random())
        self._pauses = min(self._pauses + 1, 10)
        self._until = self._clock.monotonic() + pause
        self._round += 1
        return opened
