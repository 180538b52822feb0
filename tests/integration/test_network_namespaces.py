"""Three instances on a network of their own, with one Redis; one is unplugged in the middle of an issuance."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import pytest

from tests.support.fault_proxy import FaultProxy, Step
from tests.support.faults import tripwire
from tests.support.loop_thread import LoopThread
from tests.support.namespaces import Machine, Switch, why_not
from tests.support.pebble import Pebble
from tests.support.process import Process
from tests.support.redis_server import RedisServer
from tests.support.relay import relay, relay_argv
from tests.support.server import CertServer, acme_config
from tests.support.verify import verified_leaf
from tests.support.waiting import wait_until

_LONGER_THAN_A_LEASE = 60
"""Seconds that a call to Redis may take, so that what was sent just after the cut is still under way when it ends."""


class Site:
    """Redis and instances, each on a machine of its own. A context manager.

    Only what they say to each other goes over the network that can be cut. The CA reaches them, and they reach the CA,
    by Unix sockets, as does the test: like a machine whose way to the Internet is another one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._servers = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            # Not below the test's folder: the path of a socket has to be short.
            self._sockets = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="site-")))
            self._outside = LoopThread("the site's relays")
            stack.callback(self._outside.stop)
            self._switch = stack.enter_context(Switch(self._folder / "network"))
            machine = self._switch.plug_in()
            options = {"bind": machine.address, "protected-mode": "no"}
            self.redis = stack.enter_context(RedisServer(self._folder / "redis", options, within=machine.within))
            self._addr = f"{machine.address}:{self.redis.port}"
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.close()

    def add(self, ca: Pebble | FaultProxy, *, port: int | None = None) -> tuple[CertServer, Machine]:
        """Start an instance on another machine; it is answered at ``port`` here."""
        self._servers += 1
        folder, machine = self._folder / f"server-{self._servers}", self._switch.plug_in()
        ca_port = urlsplit(ca.directory_url).port
        there, here = f"{self._sockets}/{self._servers}.http", f"{self._sockets}/{self._servers}.ca"
        config = acme_config(
            ca.directory_url,
            ca.ca_bundle,
            re_patterns=[r"[a-z0-9-]+\.example\.com"],
            listen=f"unix:{there}",
            storage={"type": "redis", "redis": {"addr": self._addr, "timeout": _LONGER_THAN_A_LEASE}},
        )
        server = CertServer(folder, config, port=port, within=machine.within)
        for listen, target in ((here, f"127.0.0.1:{ca_port}"), (f"127.0.0.1:{server.port}", there)):
            self._stack.callback(self._outside.call, [self._outside.run(relay(listen, target)).close])
        outward = [*machine.within, *relay_argv(f"127.0.0.1:{ca_port}", here)]
        self._stack.enter_context(Process(outward, folder / "outward.log"))
        self._stack.enter_context(server)
        wait_until(lambda: "event=server.started" in server.log)
        return server, machine

    def now(self) -> int:
        """Give the time by Redis's clock, in microseconds."""
        seconds, microseconds = self.redis.ask("TIME")
        return int(seconds) * 1_000_000 + int(microseconds)

    def told(self) -> Process:
        """Start what prints every command that Redis is told, with the address it came from."""
        monitor = Process(["redis-cli", "-s", self.redis.socket, "MONITOR"], self._folder / "monitor.log")
        self._stack.enter_context(monitor)
        wait_until(lambda: "OK" in monitor.text)
        return monitor


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    if why_not():
        pytest.skip(f"needs network namespaces, which are not to be had here: {why_not()}")
    with Site(tmp_path) as site:
        yield site


def test_the_late_write_of_one_that_was_cut_off_is_refused_and_the_others_go_on(
    site: Site, pebble: Pebble, http_port: int, tmp_path: Path
) -> None:
    name = "site1.example.com"
    with FaultProxy(tmp_path / "proxy", pebble) as proxy, ThreadPoolExecutor(4) as pool:
        (one, _), (two, _) = site.add(pebble, port=http_port), site.add(pebble)
        cut_off, machine = site.add(proxy)
        servers = (one, two, cut_off)
        known = [server.cert(f"known{number}.example.com").json["cert"] for number, server in enumerate(servers)]
        issued = pebble.certificate_count()
        is_cut = threading.Event()

        def cut() -> None:
            machine.cut()
            is_cut.set()

        # After the CA issued, before the certificate is even here; it comes, and can't be written.
        proxy.script(Step.CERTIFICATE, tripwire(cut, forwarding=True, answering=True), name=name)
        late = pool.submit(cut_off.cert, name)
        assert is_cut.wait(60)
        told = site.told()
        held_until = int(site.redis.ask("HGET", f" lease certificates/{name}", "until"))

        waiting = [pool.submit(server.cert, name) for server in (one, two)]
        for number, server in enumerate((one, two)):
            assert server.cert(f"new{number}.example.com").status == 200, "meanwhile, the others issue"
        winner, same = (answer.result() for answer in waiting)
        assert site.now() >= held_until, "the lease really lapsed"
        verified_leaf(winner, name, pebble.root_certificate())
        assert same.json["fingerprint"] == winner.json["fingerprint"]
        served = [server.cert(f"known{number}.example.com").json["cert"] for number, server in enumerate(servers)]
        assert served == known, "all serve on what they served"
        stored = site.redis.ask("GET", name)
        assert not written(told, machine, name)

        machine.mend()
        answer = late.result()
        wait_until(lambda: written(told, machine, name), 120)
        # Which it hears of first, after the mend: that there is another certificate by now, or that its lease is lost.
        assert answer.status in (200, 500)
        if answer.status == 200:
            assert answer.json["fingerprint"] == winner.json["fingerprint"]
        else:
            lost = ("was taken over by another instance", "was not renewed for 30 s")  # as it heard, or as it counted
            wait_until(lambda: any(f"the lease certificates/{name} {words}" in cut_off.log for words in lost))
        assert f"event=certificate.issued name={name}" not in cut_off.log
        wait_until(lambda: cut_off.cert(name).status == 200)
        for server in servers:
            assert server.cert(name).json["fingerprint"] == winner.json["fingerprint"]
        assert site.redis.ask("GET", name) == stored
        assert pebble.certificate_count() == issued + 4, "new0, new1, the winner's, and the one that came to nothing"
        assert not [server.log for server in servers if "Traceback" in server.log]


def written(told: Process, machine: Machine, name: str) -> list[str]:
    """Give the commands from a machine that were to write a certificate."""
    return [
        line
        for line in told.text.splitlines()
        if f" {machine.address}:" in line and f'"{name}"' in line and "BEGIN CERTIFICATE" in line
    ]
