"""A program of the operator's that changes the zone: ``PROGRAM present|cleanup FQDN VALUE``, as lego calls it."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ssl_cert_server.acme.text import one_line
from ssl_cert_server.challenges.dns01.providers.options import Option, whole_number
from ssl_cert_server.challenges.dns01.providers.turns import Turns
from ssl_cert_server.errors import ChallengeFailed

DEFAULT_TIMEOUT = 120
"""Seconds for one run."""

KEPT_OUTPUT = 4096
"""Bytes of what it printed last; its last line goes into the error."""

_LAST_WORDS = 300
_DRAIN_SECONDS = 1.0
_INHERITED = ("HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "TMPDIR", "TZ", "USER")
"""Of the environment; the server's own secrets are none of the program's business."""


class ProgramProvider:
    """Runs the program once for each change, at most four at once.

    FQDN ends in a dot. Exit status 0 is success. ``present`` must keep the other values at that name, and ``cleanup``
    remove this one alone; one that isn't there must be no error.
    """

    def __init__(self, options: Mapping[str, str]) -> None:
        """``options`` are resolved and checked."""
        self._argv = shlex.split(options["command"])
        self._timeout = int(options.get("timeout", DEFAULT_TIMEOUT))
        self._turns = Turns("exec")

    async def add(self, record: str, value: str) -> None:
        await self._run("present", record, value)

    async def remove(self, record: str, value: str) -> None:
        await self._run("cleanup", record, value)

    async def _run(self, action: str, record: str, value: str) -> None:
        what = f"{self._argv[0]} {action} {record}."
        async with self._turns.at(record):
            output = _Tail()
            try:
                async with asyncio.timeout(self._timeout):
                    status = await _run([*self._argv, action, f"{record}.", value], output)
            except TimeoutError:
                raise ChallengeFailed(f"{what} did not end within {self._timeout} s; {output.last_line}") from None
            except OSError as error:
                raise ChallengeFailed(f"{what} can't be started: {error.strerror or error}") from error
        if status != 0:
            how = f"ended with status {status}" if status > 0 else f"was ended by {_signal_name(-status)}"
            raise ChallengeFailed(f"{what} {how}; {output.last_line}")


class _Tail(asyncio.Protocol):
    """Keeps the end of what is printed, and knows when nobody can print any more."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self.ended = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self._kept += data
        del self._kept[:-KEPT_OUTPUT]

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - the protocol's
        self.ended.set()

    @property
    def last_line(self) -> str:
        lines = [line for line in self._kept.decode(errors="replace").splitlines() if line.strip()]
        return f"its last line: {one_line(lines[-1].strip(), _LAST_WORDS)}" if lines else "it printed nothing"


async def _run(argv: list[str], output: _Tail) -> int:
    """Run to the end and give the exit status, negative for a signal; cancelled, the program's group is killed."""
    loop = asyncio.get_running_loop()
    # A pipe of our own, not asyncio's: what the program leaves in the background may hold it open for ever.
    ours, theirs = os.pipe()
    pipe, _ = await loop.connect_read_pipe(lambda: output, os.fdopen(ours, "rb", 0))
    try:
        try:
            child = await _start(argv, theirs)
        finally:
            os.close(theirs)
        try:
            status = await child.wait()
        finally:
            await _kill(child)
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                await output.ended.wait()
        return status
    finally:
        pipe.close()


async def _start(argv: list[str], output: int) -> asyncio.subprocess.Process:
    """Start a program in a group of its own; ``output`` is the file descriptor to print to."""
    starting = asyncio.create_task(
        asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={name: os.environ[name] for name in _INHERITED if name in os.environ},
            start_new_session=True,
        )
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        # asyncio would kill the program alone, and it may have started others by now.
        with suppress(OSError):  # it was not even started
            await _kill(await starting)
        raise


async def _kill(child: asyncio.subprocess.Process) -> None:
    """End a program that still runs, with all that it started; its number is its own until it is waited for."""
    if child.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        await child.wait()


def _signal_name(number: int) -> str:
    with suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def _check_command(value: str) -> str | None:
    try:
        argv = shlex.split(value)
    except ValueError:
        return "its quotes don't match"
    if not argv or not Path(argv[0]).is_absolute():
        return "must begin with the absolute path of a program"
    if not Path(argv[0]).is_file() or not os.access(argv[0], os.X_OK):
        return f"{argv[0]} is no program that can be run here"
    return None


OPTIONS = (
    Option("command", required=True, check=_check_command),
    Option("timeout", check=whole_number(1, 170)),
)
"""``command`` is split as a shell would split it, but no shell runs; ``timeout`` is in seconds."""
