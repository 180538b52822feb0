"""Disks that run full, become read-only, or go away: real ones, in a process with mounts of its own.

Where the machine allows no such mounts, what comes nearest: a limit on the size of files, permissions, another folder.
"""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401 - asyncio loads it late, when nobody may not be able to read it
import functools
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

NOBODY = 65534
_INODES = 64


def run_with_mounts(module: str, *arguments: str) -> None:
    """Run a module in a process that may mount; what it asserts is this test's."""
    leash = ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
    mounts = unsharing()
    command = [*leash, *mounts, sys.executable, "-X", "dev", "-W", "error", "-m", module, *arguments]
    env = {**os.environ, "TEST_MOUNTS": "yes" if mounts else ""}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, f"{' '.join(arguments)}:\n{done.stdout}\n{done.stderr}"


@functools.cache
def unsharing() -> list[str]:
    """Give the command that gives a process its own mounts; empty where that isn't allowed here."""
    program = shutil.which("unshare")
    if program is None:
        return []
    for who in ([], ["--map-root-user"]):
        command = [program, *who, "--mount", "--"]
        with tempfile.TemporaryDirectory() as place:
            probe = [*command, "mount", "-t", "tmpfs", "none", place]
            if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
                return command
    return []


class Disk:
    """A small disk of its own at ``place``, made and used by a process that :func:`run_with_mounts` started."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self.real = bool(os.environ.get("TEST_MOUNTS"))
        self._beside = place.with_name(f"{place.name}.disk")
        self._fillers = self._beside / "fillers"
        place.mkdir(mode=0o700)
        self._beside.mkdir()
        if self.real:
            _run("mount", "-t", "tmpfs", "-o", f"size=4m,nr_inodes={_INODES},mode=0755", "none", self._beside)
            self._fillers.mkdir()
        self.root = self._beside / "root"
        self.root.mkdir(mode=0o700)
        self.bring_back()

    def fill(self) -> None:
        """Leave no room for another byte."""
        if not self.real:
            self._limit_files(0)
            return
        for size in (65536, 4096, 1):
            with (self._fillers / f"bytes{size}").open("wb", buffering=0) as file:
                _until_full(functools.partial(file.write, bytes(size)))

    def use_up_inodes(self) -> None:
        """Leave no room for another file."""
        if not self.real:
            self._limit_files(0)
            return
        numbers = iter(range(_INODES * 2))
        _until_full(lambda: (self._fillers / f"file{next(numbers)}").touch())

    def make_room(self) -> None:
        """Undo either."""
        if not self.real:
            self._limit_files(resource.RLIM_INFINITY)
            return
        for file in self._fillers.iterdir():
            file.unlink()

    def make_read_only(self) -> None:
        """Allow no writes, but to files that are open: with those the system refuses to remount."""
        if self.real:
            _run("mount", "--bind", self.root, self._place)
            _run("mount", "-o", "remount,bind,ro", self._place)
        else:
            become_nobody(self._place.parent)
            self._place.chmod(0o500)

    def make_writable(self) -> None:
        """Allow them again."""
        if self.real:
            _run("umount", "--lazy", self._place)
        else:
            self._place.chmod(0o700)

    def take_away(self) -> None:
        """Leave an empty folder in its place, as under a mount that is gone."""
        if self.real:
            _run("umount", "--lazy", self._place)
        else:
            self._place.rename(self.root)
            self._place.mkdir(mode=0o700)

    def bring_back(self) -> None:
        """Have the same disk in its place again."""
        if self.real:
            _run("mount", "--bind", self.root, self._place)
        else:
            self._place.rmdir()
            self.root.rename(self._place)

    @staticmethod
    def _limit_files(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def become_nobody(*places: Path) -> None:
    """Go on as a user to whom permissions apply, and to whom these places belong; root alone has to do anything."""
    if os.getuid() != 0:
        return
    for place in places:
        for path in [place, *place.rglob("*")]:
            os.chown(path, NOBODY, NOBODY)
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def _until_full(write: Callable[[], object]) -> None:
    try:
        while True:
            write()
    except OSError:
        return


def _run(*command: str | Path) -> None:
    subprocess.run([str(part) for part in command], check=True, capture_output=True)
