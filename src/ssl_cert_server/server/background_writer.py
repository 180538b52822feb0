"""Bounded queue of output, written to a file descriptor by a thread of its own."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable

MAX_LINES = 2000
"""Lines that may wait to be written."""

MAX_BYTES = 1024 * 1024
"""Bytes that may wait; a single write to an empty queue may be longer."""

_REPORT_AGAIN = 10.0
"""Seconds until the number of dropped lines is written again, where that failed and nothing else is written."""

_WRITABLE_AGAIN = 0.05
"""Seconds until a full descriptor in non-blocking mode is tried again."""

Output = Callable[[memoryview], int]
"""Writes as os.write does: a part or all, and returns how many bytes; OSError where it can't."""


class BackgroundWriter:
    """Writes in order, without letting the caller wait or fail.

    ``write`` never blocks and never raises, whatever the output is: closed, full, or a pipe that nobody reads. What
    can't be written, and what doesn't fit into the queue, is dropped and counted; ``report`` makes the line that is
    written in its place once writing works again.

    ``write`` may be called by any thread, and by a finalizer that interrupts a ``write``: the lock and the queue are
    reentrant.
    """

    def __init__(
        self,
        output: Output,
        report: Callable[[int], str],
        *,
        max_lines: int = MAX_LINES,
        max_bytes: int = MAX_BYTES,
        report_again: float = _REPORT_AGAIN,
    ) -> None:
        self.dropped = 0
        """Lines that were dropped since the start."""
        self._output, self._report = output, report
        self._max_lines, self._max_bytes, self._report_again = max_lines, max_bytes, report_again
        self._queue: queue.SimpleQueue[tuple[bytes, int] | threading.Event] = queue.SimpleQueue()
        self._lock = threading.RLock()
        # Guarded by the lock: what waits, and the lines dropped since the last one that was taken.
        self._lines = self._bytes = self._missed = 0
        # The thread's own: dropped lines that no report has been written of, and whether a line was cut off.
        self._unreported, self._torn = 0, False
        # A daemon: one that is stuck in a write must not keep the process from ending.
        threading.Thread(target=self._run, name="background writer", daemon=True).start()

    def write(self, text: str | bytes) -> None:
        """Queue a line with its newline."""
        data = text.encode(errors="backslashreplace") if isinstance(text, str) else text
        with self._lock:
            if self._lines and (self._lines >= self._max_lines or self._bytes + len(data) > self._max_bytes):
                self._missed += 1
                self.dropped += 1
                return
            self._lines += 1
            self._bytes += len(data)
            self._queue.put((data, self._missed))
            self._missed = 0

    def drain(self, seconds: float) -> bool:
        """Wait until all that is queued now was written or dropped, for ``seconds`` at most; return whether it was."""
        passed = threading.Event()
        self._queue.put(passed)
        return passed.wait(seconds)

    def _run(self) -> None:
        while True:
            try:
                entry = self._queue.get(timeout=self._report_again if self._unreported else None)
            except queue.Empty:
                self._write_report()
                continue
            if isinstance(entry, threading.Event):
                entry.set()
            else:
                self._write_line(*entry)

    def _write_line(self, data: bytes, missed: int) -> None:
        self._unreported += missed
        written = self._write_report() and self._write(data)
        with self._lock:
            self._lines -= 1
            self._bytes -= len(data)
            self._unreported += not written
            self.dropped += not written
            if self._lines == 0:
                self._unreported += self._missed
                self._missed = 0
        if self._lines == 0 and written:
            self._write_report()

    def _write_report(self) -> bool:
        """Write how many lines are missing here, if any are; return whether that worked."""
        if self._unreported and not self._write(self._report(self._unreported).encode(errors="backslashreplace")):
            return False
        self._unreported = 0
        return True

    def _write(self, data: bytes) -> bool:
        """Write a line, on a new line where the last one was cut off; return whether it was written whole."""
        left = memoryview(b"\n" + data if self._torn else data)
        size = len(left)
        try:
            while left:
                left = left[self._output(left) :]
        except OSError:
            self._torn = self._torn or len(left) < size
            return False
        self._torn = False
        return True


def output_to(descriptor: int) -> Output:
    """Return what writes to a file descriptor, and waits where it is full, be it in non-blocking mode or not."""

    def write(data: memoryview) -> int:
        while True:
            try:
                return os.write(descriptor, data)
            except BlockingIOError:  # the mode is shared with other processes, one of which chose it
                time.sleep(_WRITABLE_AGAIN)

    return write
