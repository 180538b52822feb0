"""Standard output of the tools: where it can't be written, a tool ends in order and without a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class OutputFailed(Exception):
    """Standard output can't be written; the cause says why."""


def say(line: str) -> None:
    """Print a line at once.

    :raises OutputFailed: it can't be written.
    """
    try:
        print(line, flush=True)
    except OSError as error:
        raise OutputFailed from error


@contextmanager
def stop_at_unwritable_output() -> Iterator[None]:
    """Run a tool; where its output can't be written, exit once the block has stopped what it started.

    A reader that is gone, as with ``| head -1``, ended the tool on purpose: the exit is quiet, with code 0. Everything
    else is a line on standard error, and exit code 1.
    """
    try:
        yield
    except OutputFailed as failure:
        # What is still buffered would fail again when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(failure.__cause__, BrokenPipeError):
            sys.exit(0)
        reason = failure.__cause__.strerror if isinstance(failure.__cause__, OSError) else failure
        sys.exit(f"can't write to standard output: {reason}")
