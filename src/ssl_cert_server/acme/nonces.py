"""Nonces in stock (RFC 8555 section 6.5)."""

from __future__ import annotations

from collections import OrderedDict, deque

_MAX_STOCK = 32
_MAX_REMEMBERED = 4096
"""An answer that comes again comes with the next request on its connection: this many are far more than needed."""


class NoncePool:
    """Nonces from earlier answers, each given out once, the freshest first: old ones are what CAs reject."""

    def __init__(self) -> None:
        self._stock: deque[str] = deque(maxlen=_MAX_STOCK)

    def put(self, nonce: str | None) -> None:
        """Keep an answer's nonce, where it had one; the oldest is dropped when there are too many."""
        if nonce is not None:
            self._stock.append(nonce)

    def take(self) -> str | None:
        """Hand out a nonce, or None where there is none."""
        return self._stock.pop() if self._stock else None


class SeenNonces:
    """Nonces that came with answers. No two answers have the same (section 6.5.1), so one that is seen again shows that
    an answer came twice: the second would be taken for that of the next request on its connection.
    """

    def __init__(self) -> None:
        self._seen: OrderedDict[str, None] = OrderedDict()

    def add(self, nonce: str) -> bool:
        """Remember a nonce; tell whether it is the first time."""
        if nonce in self._seen:
            return False
        self._seen[nonce] = None
        if len(self._seen) > _MAX_REMEMBERED:
            self._seen.popitem(last=False)
        return True
