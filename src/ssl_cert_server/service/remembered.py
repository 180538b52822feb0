"""A bounded memory of names, each for a while."""

from __future__ import annotations

from collections import OrderedDict

from ssl_cert_server.clock import Clock


class RememberedNames:
    """At most ``size`` names; the one that was least recently put in or looked up goes first."""

    def __init__(self, clock: Clock, size: int) -> None:
        self._clock = clock
        self._size = size
        self._until: OrderedDict[str, float] = OrderedDict()

    def __contains__(self, name: str) -> bool:
        until = self._until.get(name)
        if until is None:
            return False
        if self._clock.monotonic() >= until:
            del self._until[name]
            return False
        self._until.move_to_end(name)
        return True

    def add(self, name: str, seconds: float) -> None:
        """Remember a name from now on, for so long."""
        self._until[name] = self._clock.monotonic() + seconds
        self._until.move_to_end(name)
        if len(self._until) > self._size:
            self._until.popitem(last=False)

    def drop(self, name: str) -> None:
        """Forget a name."""
        self._until.pop(name, None)
