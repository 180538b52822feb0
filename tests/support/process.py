"""Programs that tests start: they write to a file, and never outlive the test run."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self


class Process:
    """One program, started as often as wanted; ``log`` gathers what all its runs print.

    ``env`` is added to the test's own environment. The program dies with the thread that started it, even where
    pytest itself is killed: start it from the main thread, not from a pool's.
    """

    def __init__(
        self,
        argv: Sequence[str | Path],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.argv = [str(part) for part in argv]
        self.log = log
        self._env = {**os.environ, **(env or {})}
        self._cwd = cwd
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    @property
    def pid(self) -> int:
        """Of the current run, or of the last one."""
        return self._started().pid

    @property
    def returncode(self) -> int | None:
        """As in subprocess; None while it runs."""
        return self._started().poll()

    @property
    def text(self) -> str:
        """What all runs printed so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def start(self) -> None:
        """Start it, unless it runs."""
        if self.running:
            return
        # setpriv and not preexec_fn: Python warns of the latter where threads run. A session of its own, so that
        # Ctrl-C reaches pytest alone, whose fixtures then stop everything in order.
        setpriv = shutil.which("setpriv")
        leash = [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                [*leash, *self.argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._env,
                cwd=self._cwd,
                start_new_session=True,
            )

    def wait_for_port(self, port: int, *, seconds: float = 60, host: str = "127.0.0.1") -> None:
        """Until the program accepts TCP connections there; RuntimeError with its output if it doesn't, or ends."""
        deadline = time.monotonic() + seconds
        while self.running and time.monotonic() < deadline:
            try:
                socket.create_connection((host, port), timeout=1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        what = "accepts no connections" if self.running else f"ended with {self.returncode}"
        raise RuntimeError(f"{self.argv[0]} {what}; port {port}, {seconds} s. It printed:\n{self.text[-4000:]}")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it runs."""
        if self.running:
            self._started().send_signal(number)

    def pause(self) -> None:
        """Let it go deaf: connections are accepted by the kernel, and nothing answers."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """End a pause."""
        self.signal(signal.SIGCONT)

    def stop(self, *, grace: float = 5) -> int | None:
        """SIGTERM, and SIGKILL after ``grace`` seconds; the exit code, or None if it was never started."""
        if self._child is None:
            return None
        self.signal(signal.SIGTERM)
        self.resume()
        try:
            return self._child.wait(grace)
        except subprocess.TimeoutExpired:
            self._child.kill()
            return self._child.wait()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is None:
            raise RuntimeError(f"{self.argv[0]} was not started")
        return self._child
