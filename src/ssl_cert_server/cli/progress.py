"""How far a long command is: a bar on a terminal, else a line now and then. Both on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ssl_cert_server.server.upkeep.kept import Kept
from ssl_cert_server.storage.base import Storage

_EVERY = 10.0
"""Seconds between lines."""


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Callable[[], None]]:
    """Show progress during the block; what it gives is called for every step."""
    if not on_terminal():
        yield _lines(what)
        return
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


def on_terminal() -> bool:
    """Tell whether somebody may be looking."""
    return sys.stderr.isatty()


async def count_for_bar(kept: Kept, storage: Storage) -> int | None:
    """Count the values, where a bar will be shown.

    :raises StorageError: storage can't be listed.
    """
    return await _count(kept.keys(storage)) if on_terminal() else None


async def _count(keys: AsyncIterator[str]) -> int:
    number = 0
    async for _ in keys:
        number += 1
    return number


def _lines(what: str) -> Callable[[], None]:
    done, shown_at = 0, time.monotonic()

    def step() -> None:
        nonlocal done, shown_at
        done += 1
        if time.monotonic() >= shown_at + _EVERY:
            shown_at = time.monotonic()
            sys.stderr.write(f"{what}: {done} values\n")

    return step
