"""Machines on a network of their own, one of which can be unplugged: real interfaces, addresses and TCP.

The switch is a bridge in a user and network namespace, which Linux gives to anybody; each machine is a network
namespace that is joined to it by a pair of virtual Ethernet interfaces. Nothing leads from there to this machine's
network: files and Unix sockets are what tests reach their programs by.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.process import Process
from tests.support.waiting import wait_until

_PROGRAMS = ("unshare", "nsenter", "ip")
_UNSHARE = ["unshare", "--map-root-user", "--net", "--"]
_PROBE = "ip link add switch type bridge && ip link add port type veth peer name eth0"
_NETWORK = "192.0.2"
"""TEST-NET-1 (RFC 5737), which no network outside has."""

_STAYS = ["sh", "-c", "ip link set lo up && echo ready && exec sleep infinity"]


@functools.cache
def why_not() -> str:
    """Give the reason why there can be no such network here; empty where there can."""
    lacking = [program for program in _PROGRAMS if not shutil.which(program)]
    if lacking:
        return f"{', '.join(lacking)} can't be found"
    tried = subprocess.run([*_UNSHARE, "sh", "-c", _PROBE], capture_output=True, text=True, check=False)
    return "" if tried.returncode == 0 else f"no bridge in a namespace of our own: {tried.stderr.strip()}"


class Switch:
    """A context manager; what :meth:`plug_in` gave is gone at its end, and has to be idle by then."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._stack = ExitStack()
        self._machines = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._within = _enter(_stays(stack, _UNSHARE, self._folder / "switch.log"))
            self.run("ip link add switch type bridge && ip link set switch up")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.close()

    def plug_in(self) -> Machine:
        """Give another machine, which reaches all others."""
        self._machines += 1
        number = self._machines
        unshare = [*self._within, "unshare", "--net", "--"]
        process = _stays(self._stack, unshare, self._folder / f"machine-{number}.log")
        port = f"port{number}"
        self.run(
            f"ip link add {port} type veth peer name eth0 netns {process.pid} && ip link set {port} master switch up"
        )
        machine = Machine(self, port, f"{_NETWORK}.{number}", _enter(process))
        _run(machine.within, f"ip address add {machine.address}/24 dev eth0 && ip link set eth0 up")
        return machine

    def run(self, script: str) -> None:
        """Run a line of shell on the switch."""
        _run(self._within, script)


class Machine:
    """``within`` begins the command of what is to run there; ``address`` is where the others find it."""

    def __init__(self, switch: Switch, port: str, address: str, within: list[str]) -> None:
        self._switch = switch
        self._port = port
        self.address = address
        self.within = within

    def cut(self) -> None:
        """Pull the plug: it keeps its address and its connections, and nothing that is sent arrives."""
        self._switch.run(f"ip link set {self._port} down")

    def mend(self) -> None:
        """Plug it in again."""
        self._switch.run(f"ip link set {self._port} up")


def _stays(stack: ExitStack, unshare: list[str], log: Path) -> Process:
    """Start what keeps new namespaces there until the end."""
    process = stack.enter_context(Process([*unshare, *_STAYS], log))
    wait_until(lambda: "ready" in process.text or not process.running)
    assert process.running, process.text
    return process


def _enter(process: Process) -> list[str]:
    return ["nsenter", "--target", str(process.pid), "--user", "--net", "--preserve-credentials", "--"]


def _run(within: list[str], script: str) -> None:
    done = subprocess.run([*within, "sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{script}: {done.stderr}"
