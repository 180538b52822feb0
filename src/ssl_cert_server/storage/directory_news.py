"""Wakes those of this process who wait for announcements in a directory; others look at it a few times a second."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_guard = threading.Lock()
_listeners: dict[Path, list[tuple[asyncio.AbstractEventLoop, asyncio.Event]]] = {}


@contextmanager
def listening(root: Path) -> Iterator[asyncio.Event]:
    """Give an event that is set when something is announced during the block."""
    listener = asyncio.get_running_loop(), asyncio.Event()
    with _guard:
        _listeners.setdefault(root, []).append(listener)
    try:
        yield listener[1]
    finally:
        with _guard:
            _listeners[root].remove(listener)
            if not _listeners[root]:
                del _listeners[root]


def tell(root: Path) -> None:
    """Wake them all."""
    with _guard:
        listeners = [*_listeners.get(root, ())]
    for loop, event in listeners:
        with suppress(RuntimeError):  # its loop was closed
            loop.call_soon_threadsafe(event.set)
