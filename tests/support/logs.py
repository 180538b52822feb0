"""Logging as it was before a test set it up for the whole process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import structlog


@contextmanager
def logging_put_back() -> Iterator[None]:
    """Undo in the end what ``set_up_logs`` does during the block."""
    root = logging.getLogger()
    handlers, level = [*root.handlers], root.level
    root.handlers.clear()  # or they would be closed
    of_threads = threading.excepthook
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()
        threading.excepthook = of_threads
