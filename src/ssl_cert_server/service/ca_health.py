"""Whether a CA is worth asking: one that is down is left alone for a while, so that nobody waits for it."""

from __future__ import annotations

from http import HTTPStatus

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import (
    AccountRefused,
    AcmeError,
    AnswerRepeated,
    CaProblem,
    CaTooSlow,
    CaUnreachable,
    MalformedResponse,
    ValidationFailed,
)

_FIRST_PAUSE = 15.0
_LONGEST_PAUSE = 600.0
_NAMES = 3
_PROBE = 30.0
"""Seconds for which the others wait to see what becomes of the first one after a pause."""

_LONGEST_OBEYED = 3600.0
"""Seconds. A Retry-After longer than this is a mistake of the CA's, or as good as an outage: it is probed."""


class CaHealth:
    """Counts the failures of one CA that are nobody's fault but its own."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures = 0
        self._stumbled_over: set[str] = set()
        self._closed_until = float("-inf")
        self._probing = False

    @property
    def closed_for(self) -> float:
        """Seconds for which it isn't asked; 0 where it may be."""
        return max(0.0, self._closed_until - self._clock.monotonic())

    def admit(self) -> bool:
        """Begin to ask it; true where this is a probe, the first after a pause, for which all others wait.

        Whoever made the probe calls :meth:`undecided` in the end.
        """
        if not self._failures:
            return False
        self._probing = True
        self._closed_until = self._clock.monotonic() + _PROBE
        return True

    def undecided(self) -> None:
        """A probe has ended; where it told nothing, the next one may be made."""
        if self._probing:
            self._probing = False
            self._closed_until = float("-inf")

    def worked(self) -> None:
        """It did as it should, if only in refusing a name."""
        self._probing = False
        self._failures = 0
        self._stumbled_over.clear()
        self._closed_until = float("-inf")

    def failed(self, error: AcmeError, name: str) -> None:
        """Leave it alone: longer each time, and as long as it asks for.

        Where it may have stumbled over ``name`` alone, only at the third name in a row: one mustn't hold up the others.
        """
        if may_be_the_names(error):
            if len(self._stumbled_over) < _NAMES:
                self._stumbled_over.add(name)
            if len(self._stumbled_over) < _NAMES:
                return
        asked = min(error.retry_after or 0.0, _LONGEST_OBEYED)
        # What was under way side by side fails side by side: that is one failure.
        pause = self._next_pause() if self._probing or not self.closed_for else self.closed_for
        self._probing = False
        self._closed_until = self._clock.monotonic() + max(pause, asked)

    def _next_pause(self) -> float:
        pause = min(_FIRST_PAUSE * 2.0**self._failures, _LONGEST_PAUSE)
        self._failures = min(self._failures + 1, 10)
        return pause * (0.75 + self._clock.random() / 2)


def is_trouble(error: Exception) -> bool:
    """Tell whether a failure says something about the CA rather than about the name."""
    if isinstance(error, CaProblem):
        return error.status >= 500 or error.everyone
    return isinstance(error, CaUnreachable | AccountRefused) or may_be_the_names(error)


def may_be_the_names(error: Exception) -> bool:
    """Tell whether a CA's trouble may be with the one name alone: it answers, and says nothing of others."""
    if isinstance(error, CaProblem):
        closed = error.status == HTTPStatus.SERVICE_UNAVAILABLE and error.retry_after is not None
        return error.status >= 500 and not error.everyone and not closed
    if isinstance(error, ValidationFailed):
        return error.problem == "serverInternal"
    return isinstance(error, MalformedResponse | AnswerRepeated | CaTooSlow)
