"""A certificate authority that does as the test says."""

from __future__ import annotations

import asyncio
from collections import defaultdict

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import OrderFailed
from ssl_cert_server.model import Certificate, OpenOrder
from ssl_cert_server.service.attempts import Issued, Wanted
from ssl_cert_server.service.open_orders import OpenOrders
from tests.support.leaves import DAY, HOUR, make_certificate

DIRECTORY = "https://ca.test/directory"


class ScriptedCa:
    """Issues for 90 days, unless ``outcomes`` has something else for the name: a failure, or a certificate.

    ``calls`` are the names asked for and the open orders they came with, ``wanted`` all that was said of them. While
    ``gate`` is clear, what is asked for waits, its order made. ``behind`` is by how many seconds its clock is behind
    the one it was given.
    """

    def __init__(self, clock: Clock) -> None:
        self.calls: list[tuple[str, OpenOrder | None]] = []
        self.wanted: list[Wanted] = []
        self.outcomes: defaultdict[str, list[Exception | Certificate]] = defaultdict(list)
        self.gate = asyncio.Event()
        self.gate.set()
        self.orders: list[OpenOrder] = []
        self.running = 0
        self.most_running = 0
        self.behind = 0.0
        self._clock = clock

    async def issue(self, wanted: Wanted, orders: OpenOrders) -> Issued:
        name, order = wanted.subject.names[0], orders.at(DIRECTORY)
        self.calls.append((name, order))
        self.wanted.append(wanted)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            if order is None:
                await orders.begin()
                orders.check()
                self.orders.append(OpenOrder(DIRECTORY, f"https://ca.test/order/{len(self.orders)}", f"key of {name}"))
                await orders.keep(self.orders[-1])
            await self.gate.wait()
            return Issued(self._outcome(wanted.subject.names), DIRECTORY, "http-01")
        except OrderFailed:
            orders.forget(DIRECTORY)
            raise
        finally:
            self.running -= 1

    def _outcome(self, names: tuple[str, ...]) -> Certificate:
        name = names[0]
        outcome = self.outcomes[name].pop(0) if self.outcomes[name] else None
        if isinstance(outcome, Exception):
            raise outcome
        now = self._clock.now() - self.behind
        return outcome or make_certificate(*names, start=now - HOUR, end=now + 90 * DAY)
