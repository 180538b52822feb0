"""Which failures pass by themselves, and how long to wait for that."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import AcmeError, AnswerLost, CaProblem, CaUnreachable

ATTEMPTS = 4
MAX_WAIT = 10.0
"""Seconds. A CA that asks for more is obeyed by whoever called us: it has other work meanwhile."""

_FIRST_DELAY = 0.5

_T = TypeVar("_T")
_log = structlog.get_logger()


def is_transient(error: AcmeError) -> bool:
    """Whether asking again in a moment may help. Never for a 429: that is a limit, and asking again eats into it."""
    if error.retry_after is not None and error.retry_after > MAX_WAIT:
        return False
    return isinstance(error, CaUnreachable) or (isinstance(error, CaProblem) and error.status >= 500)


def is_transient_refusal(error: AcmeError) -> bool:
    """Return whether a retry may help, and the CA itself refused the request, so that it had no effect."""
    if isinstance(error, CaProblem) and error.type == "about:blank" and not error.everyone:
        return False  # a proxy in front of the CA may have lost the CA's answer
    return is_transient(error) and not isinstance(error, AnswerLost)


def jittered(seconds: float, clock: Clock) -> float:
    """Spread a delay by a quarter either way, so that a fleet's instances don't ask in step."""
    return seconds * (0.75 + clock.random() / 2)


async def with_retries(
    attempt: Callable[[], Awaitable[_T]],
    clock: Clock,
    *,
    attempts: int = ATTEMPTS,
    again: Callable[[AcmeError], bool] = is_transient,
) -> _T:
    """Call ``attempt`` until it succeeds, fails for good, or failed ``attempts`` times; the last failure is raised.

    ``again`` decides of a failure whether another attempt may follow.
    """
    delay = _FIRST_DELAY
    for left in range(attempts - 1, 0, -1):
        try:
            return await attempt()
        except AcmeError as error:
            if not again(error):
                raise
            _log.warning("acme.request.retried", reason=str(error), attempts_left=left)
            await clock.sleep(max(jittered(delay, clock), error.retry_after or 0.0))
            delay *= 2
    return await attempt()
