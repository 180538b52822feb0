"""Waiting for the CA to finish (RFC 8555 sections 7.4 and 7.5.1)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from ssl_cert_server.acme.retry import jittered
from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import CaTooSlow

FIRST_DELAY = 0.3
_MAX_DELAY = 3.0
_MAX_WAIT = 60.0
"""Seconds. A CA that asks for more is left alone: the caller comes back and resumes the order."""

_POLL_FOR = 120.0
"""Seconds after which others, another CA above all, are not kept waiting: the caller resumes the order later."""


class _Pollable(Protocol):
    @property
    def retry_after(self) -> float | None: ...


_P = TypeVar("_P", bound=_Pollable)


async def poll(
    fetch: Callable[[], Awaitable[_P]],
    *,
    done: Callable[[_P], bool],
    clock: Clock,
    what: str,
    retry_after: float | None = None,
) -> _P:
    """Fetch until it is done, as often as the CA's Retry-After allows; ``retry_after`` is that of the answer at hand.

    :raises CaTooSlow: the CA asks for a long wait (``retry_after`` says how long), or doesn't finish.
    :raises AcmeError: what ``fetch`` raises.
    """
    give_up = clock.monotonic() + _POLL_FOR
    delay = FIRST_DELAY
    while clock.monotonic() < give_up:
        await clock.sleep(_wait(retry_after, delay, clock, what))
        state = await fetch()
        if done(state):
            return state
        retry_after = state.retry_after
        delay = min(delay * 2, _MAX_DELAY)
    raise CaTooSlow(f"{what}: the CA did not finish within {_POLL_FOR:g} s")


def _wait(retry_after: float | None, delay: float, clock: Clock, what: str) -> float:
    if retry_after is None:
        return jittered(delay, clock)
    if retry_after > _MAX_WAIT:
        raise CaTooSlow(f"{what}: the CA asks to come back in {retry_after:.0f} s", retry_after=retry_after)
    # "Retry-After: 0" is no leave to ask without pause.
    return max(retry_after, FIRST_DELAY)
