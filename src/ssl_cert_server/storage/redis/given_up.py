"""Calls that were given up, cancelled or failed: they may arrive all the same, after later ones."""

from __future__ import annotations

import itertools
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable

from ssl_cert_server.storage.redis.connection import Reply, Word
from ssl_cert_server.storage.redis.failures import Refused

_REMEMBERED = 100
"""Of one subject. Those before them are long dead, as what kept the last hundred from arriving kept them, too."""


class GivenUp:
    """Numbers the calls of one instance, and has the next call on a subject revoke those that were given up."""

    def __init__(self, instance: str) -> None:
        self._instance = instance
        self._numbers = itertools.count()
        self._calls: defaultdict[str, deque[str]] = defaultdict(lambda: deque(maxlen=_REMEMBERED))

    async def run(self, subject: str, send: Callable[[list[Word]], Awaitable[Reply]]) -> Reply:
        """Send one call; ``send`` gets what its script's arguments begin with (see ``scripts.py``)."""
        call = f"{self._instance}:{next(self._numbers)}"
        revoked = [*self._calls.get(subject, ())]
        try:
            reply = await send([call, len(revoked), *revoked])
        except Refused:
            raise
        except BaseException:
            self._calls[subject].append(call)
            raise
        if reply == b"done":
            self._settle(subject, revoked)
        return reply

    def _settle(self, subject: str, revoked: list[str]) -> None:
        left = [call for call in self._calls.get(subject, ()) if call not in revoked]
        if left:
            self._calls[subject] = deque(left, _REMEMBERED)
        else:
            self._calls.pop(subject, None)
