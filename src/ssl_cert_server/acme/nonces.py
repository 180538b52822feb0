"""Nonces in stock (RFC 8555 section 6.5)."""

from __future__ import annotations

from collections import deque

_MAX_STOCK = 32


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
