"""Standard input, output and error of this process: always open, and safe to write to."""

from __future__ import annotations

import atexit
import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

import structlog

from ssl_cert_server.errors import OutputFailed
from ssl_cert_server.server.background_writer import BackgroundWriter, output_to

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

STOPPING = 2.0
"""Seconds that the end of the process waits for queued lines to be written."""

_log = structlog.wrap_logger(structlog.ReturnLogger())
"""Renders a line as the log does and returns it, for a line that is written ahead of the queue."""

_STDIN, _STDOUT, _STDERR = 0, 1, 2


class _OutputStream(io.RawIOBase):
    """Base of the streams that stand for an open file descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True


class QueuedStream(_OutputStream):
    """Stream of which every write is queued: it never blocks and never fails."""

    def __init__(self, descriptor: int, writer: BackgroundWriter) -> None:
        super().__init__(descriptor)
        self.writer = writer

    def write(self, data: ReadableBuffer) -> int:
        content = bytes(data)
        if content:
            self.writer.write(content)
        return len(content)


class CheckedStream(_OutputStream):
    """Stream that writes at once and whole, and keeps nothing that the interpreter would try again at its end."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor)
        self._output = output_to(descriptor)

    def write(self, data: ReadableBuffer) -> int:
        """Write all of it.

        :raises OutputFailed: it can't be written.
        """
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while left:
                left = left[self._output(left) :]
        except OSError as error:
            raise OutputFailed(f"can't write to standard output: {error.strerror}") from error
        return size


def take_over_standard_streams() -> BackgroundWriter:
    """Queue all that is printed to standard error, and check all that is printed to standard output.

    Return the writer of standard error, for the log.
    """
    open_descriptors()
    if sys.stdin is None:  # it was closed when the interpreter started
        sys.stdin = os.fdopen(_STDIN, closefd=False)
    # A duplicate, so that nothing which closes descriptor 2 sends the log into a file that is opened afterwards.
    writer = BackgroundWriter(output_to(os.dup(_STDERR)), _dropped)
    atexit.register(writer.drain, STOPPING)
    sys.stderr = _text(QueuedStream(_STDERR, writer))
    sys.stdout = _text(CheckedStream(_STDOUT))
    return writer


def queue_standard_output() -> BackgroundWriter:
    """Queue from now on all that is printed to standard output, too; return its writer."""
    writer = BackgroundWriter(output_to(os.dup(_STDOUT)), "lines that could not be written here: {}\n".format)
    sys.stdout = _text(QueuedStream(_STDOUT, writer))
    return writer


def open_descriptors() -> None:
    """Open /dev/null as descriptor 0, 1 or 2 where that is closed, or a file opened later would be printed into.

    What nobody is to read is discarded, but standard output is opened for reading only: a command whose result is
    what it prints must fail.
    """
    for descriptor, mode in ((_STDIN, os.O_RDONLY), (_STDOUT, os.O_RDONLY), (_STDERR, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest free number is taken, so this is the one that is missing.
            os.set_inheritable(os.open(os.devnull, mode), True)  # noqa: FBT003 - its signature


def _dropped(count: int) -> str:
    line = _log.warning("log.dropped", count=count)
    return f"{line}\n"


def _text(stream: io.RawIOBase) -> TextIO:
    encoding = getattr(sys.__stdout__, "encoding", "utf-8")
    return io.TextIOWrapper(stream, encoding, errors="backslashreplace", write_through=True)  # type: ignore[type-var]
