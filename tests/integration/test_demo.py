"""``make demo`` whose output can't be written: it ends in order, and leaves no process and no file behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from tests.support.waiting import wait_until

CHECKOUT = Path(__file__).parents[2]
ENDS_WITHIN = 120
"""Seconds."""


@contextmanager
def demo(folder: Path, output: IO[bytes] | int) -> Iterator[subprocess.Popen[bytes]]:
    """Run it in a session of its own, with its files in ``folder``; in the end nothing of it is left."""
    started = subprocess.Popen(
        [sys.executable, "-m", "tools.demo"],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.PIPE,
        cwd=CHECKOUT,
        env={**os.environ, "TMPDIR": str(folder)},
        start_new_session=True,
    )
    try:
        yield started
        wait_until(lambda: not session(started.pid))
        assert [*folder.iterdir()] == []
    finally:
        for process in session(started.pid):
            os.kill(process, 9)
        started.communicate()


def session(leader: int) -> list[int]:
    """Return the processes of a session that are alive."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of = stat.read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(of) == leader and state != "Z":
            found.append(int(stat.parent.name))
    return found


def test_a_full_output_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full, demo(tmp_path, full) as started:
        _, error = started.communicate(timeout=ENDS_WITHIN)
        assert error.decode() == "can't write to standard output: No space left on device\n"
        assert started.returncode == 1


@pytest.mark.parametrize("read", [0, 1])
def test_a_reader_that_is_gone_ends_it_quietly(tmp_path: Path, read: int) -> None:
    with demo(tmp_path, subprocess.PIPE) as started:
        assert started.stdout is not None
        for _ in range(read):
            assert started.stdout.readline().startswith(b"Starting a CA")
        started.stdout.close()
        assert started.stderr is not None
        assert started.stderr.read() == b""
        assert started.wait(ENDS_WITHIN) == 0
