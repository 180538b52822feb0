"""A server on one storage, faults of that storage, and how many orders are placed meanwhile."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.fault_proxy import FaultProxy, Step
from tests.support.faults import tripwire
from tests.support.pebble import Pebble
from tests.support.server import CertServer, Reply, backing_off_for, ca_entry, cas_config, changed_program
from tests.support.storage_faults import obeying_permissions
from tests.support.verify import verified_leaf
from tests.support.waiting import wait_until

KNOWN = 3
OTHERS = 3
BACK_OFF = 6.0
"""Seconds, instead of a minute and more."""

SHORTER = (
    backing_off_for(BACK_OFF),
    # A minute would be spent at a locked index with ten requests one after the other.
    "import ssl_cert_server.storage.directory_index_file; ssl_cert_server.storage.directory_index_file.BUSY = 1.0",
)

_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Ca:
    """A CA behind a proxy that sees each request; it validates at ``http_port``."""

    pebble: Pebble
    proxy: FaultProxy
    http_port: int


class Scene:
    """A server with some names that it knows; a context manager."""

    def __init__(
        self,
        folder: Path,
        ca: Ca,
        *,
        changes: Sequence[str] = (),
        limits: dict[str, str] | None = None,
        **config: Any,
    ) -> None:
        self.ca = ca
        entry = ca_entry(ca.proxy.directory_url, ca.proxy.ca_bundle, limits=limits or {})
        self.server = CertServer(
            folder,
            cas_config(
                entry,
                re_patterns=[r"[a-z0-9-]+\.example\.com"],
                dns={"resolvers": [ca.pebble.dns_server]},
                **config,
            ),
            port=ca.http_port,
            program=changed_program(*SHORTER, *changes),
            within=obeying_permissions(),
        )
        self._faults = ExitStack()
        self._known: dict[str, str] = {}
        self._orders_before = 0

    def __enter__(self) -> Self:
        self.server.start()
        for name in self.new_names(KNOWN):
            self._known[name] = self.server.cert(name).json["fingerprint"]
        self.begin_anew()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            self.end()
        finally:
            self.server.stop()

    @property
    def orders(self) -> int:
        """How many orders were placed since the test began."""
        return self.ca.pebble.order_count() - self._orders_before

    def begin(self, fault: AbstractContextManager[None]) -> None:
        """Let a fault begin."""
        self._faults.enter_context(fault)

    def begin_at(self, step: Step, name: str, fault: AbstractContextManager[None]) -> None:
        """Let a fault begin once the CA has done a step for a name, and before the server has the CA's answer."""
        self.ca.proxy.script(step, tripwire(lambda: self.begin(fault), forwarding=True, answering=True), name=name)

    def end(self) -> None:
        """Let all faults end."""
        self._faults.close()

    def begin_anew(self) -> None:
        """Count orders from now on."""
        self._orders_before = self.ca.pebble.order_count()

    @staticmethod
    def new_names(count: int) -> list[str]:
        """Return names that nobody asked for before."""
        return [f"n{next(_numbers)}.example.com" for _ in range(count)]

    def ask_ten_times(self, name: str) -> list[Reply]:
        """Ask three times in sequence, four times at once, and again three times in sequence."""
        replies = [self.server.cert(name) for _ in range(3)]
        with ThreadPoolExecutor(4) as pool:
            replies += pool.map(self.server.cert, [name] * 4)
        return replies + [self.server.cert(name) for _ in range(3)]

    def is_ready(self) -> bool:
        status = self.server.get("/readyz").status
        assert status in (200, 503)
        return status == 200

    def check_known(self) -> None:
        """Assert that the known names are served."""
        for name, fingerprint in self._known.items():
            reply = self.server.cert(name)
            assert reply.status == 200
            assert reply.json["fingerprint"] == fingerprint

    def check_no_others(self) -> None:
        """Assert that no order is placed for other names, and that the server says that it is not ready."""
        wait_until(lambda: not self.is_ready())
        orders = self.orders
        others = self.new_names(OTHERS)
        with ThreadPoolExecutor(OTHERS) as pool:
            replies = [*pool.map(self.server.cert, others)]
        assert {reply.status for reply in replies} == {500}
        assert self.orders == orders
        assert not self.is_ready()

    def check_issued(self, name: str, *, orders: int) -> None:
        """Assert that a name is issued in the end, with so many orders in all, and that other names are, too."""
        wait_until(self.is_ready)
        wait_until(lambda: self.server.cert(name).status == 200)
        assert self.orders == orders
        for issued in (name, *self.new_names(1)):
            verified_leaf(self.server.cert(issued), issued, self.ca.pebble.root_certificate())
        self.check_known()
        assert "Traceback" not in self.server.log


def check_lasting(scene: Scene, fault: AbstractContextManager[None]) -> None:
    """Assert that nothing is ordered while a fault lasts, and that all is well afterwards without a restart."""
    (name,) = scene.new_names(1)
    scene.begin(fault)
    assert {reply.status for reply in scene.ask_ten_times(name)} == {500}
    assert scene.orders == 0
    scene.check_known()
    scene.check_no_others()
    scene.end()
    scene.check_issued(name, orders=1)


def check_costs_one(scene: Scene, fault: AbstractContextManager[None], *, at: Step | None = None) -> None:
    """Assert that a fault costs one order at most, which is gone on with once the fault has ended.

    The fault begins before the order, or right after a step of it.
    """
    (name,) = scene.new_names(1)
    if at is None:
        scene.begin(fault)
    else:
        scene.begin_at(at, name, fault)
    assert {reply.status for reply in scene.ask_ten_times(name)} <= {200, 500}
    assert scene.orders == 1
    scene.check_known()
    scene.check_no_others()
    scene.end()
    scene.check_issued(name, orders=1)
