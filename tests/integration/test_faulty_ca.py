"""A bad road to the CA: every fault at every step of an order, many at random, and a crash between any two steps.

Whatever goes wrong, a request ends, nothing the CA issued is lost, and no order is placed twice without need. The
proxy of tests/support/fault_proxy.py stands between the server and Pebble and does the harm.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import math
import random
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest

from tests.support.fault_proxy import Exchange, Fault, FaultProxy, Step
from tests.support.faults import (
    PROMPT,
    captive,
    closed,
    doubled,
    dripping,
    lost,
    rate_limited,
    refused,
    torn,
    tripwire,
)
from tests.support.leaks import assert_no_key
from tests.support.pebble import Pebble
from tests.support.ports import free_port
from tests.support.server import CertServer, Reply, acme_config
from tests.support.verify import verified_leaf
from tests.support.waiting import wait_until

BATCH = 30  # no more are issued side by side
ORDER_STEPS = (Step.NEW_ORDER, Step.AUTHORIZATION, Step.CHALLENGE, Step.FINALIZE, Step.ORDER, Step.CERTIFICATE)
DEADLINE = 60


class Road:
    """A server whose way to Pebble leads through the proxy; a context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running = ExitStack()

    def __enter__(self) -> Self:
        port, folder = free_port(), self._folder / "pebble"
        with ExitStack() as stack:
            self.pebble = stack.enter_context(Pebble(folder, http_port=port, nonce_reject=0, retry_after=0))
            self.proxy = stack.enter_context(FaultProxy(self._folder / "proxy", self.pebble))
            config = acme_config(
                self.proxy.directory_url,
                self.proxy.ca_bundle,
                re_patterns=[r"[a-z0-9-]+\.example\.com"],
                dns={"resolvers": [self.pebble.dns_server]},
            )
            self.server = stack.enter_context(CertServer(self._folder / "server", config, port=port))
            self._running = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def ask(self, names: Sequence[str]) -> dict[str, Reply]:
        """Ask for all names at once."""
        with ThreadPoolExecutor(48) as pool:
            return dict(zip(names, pool.map(self.server.cert, names), strict=True))

    def end_back_off(self) -> None:
        """As if every back-off's time, the names' and the CA's, had passed while the server was stopped."""
        self.server.stop()
        self._forget_retry_times()
        self.server.start()

    def _forget_retry_times(self) -> None:
        for file in (self.server.directory / "_state").glob("*"):
            state = json.loads(file.read_bytes())
            file.write_text(json.dumps({**state, "retry_at": 0, "placing_at": 0}))

    def mend(self) -> None:
        """All faults end, and with them every back-off."""
        self.proxy.clear()
        self.end_back_off()

    def check_log(self) -> None:
        """No traceback, key or token stands in the server's log."""
        log = self.server.log
        assert "Traceback" not in log
        assert not [token for token in self.proxy.tokens if token in log]
        for key, value in self.server.stored().items():
            if key.startswith("_state/"):
                for order in json.loads(value)["orders"]:
                    assert_no_key(order["key_pem"], log)
            elif b"PRIVATE KEY-----" in value:
                assert_no_key(value[: value.index(b"-----END")], log)


@pytest.fixture
def road(tmp_path: Path) -> Iterator[Road]:
    with Road(tmp_path) as running:
        yield running


def check_ended(reply: Reply) -> None:
    """Assert that a request got a certificate, or the words that there is none now."""
    assert reply.status in (200, 500), reply
    if reply.status == 500:
        assert int(reply.headers["retry-after"]) >= 1


# --- one fault at one step


@dataclass(frozen=True, slots=True)
class Case:
    step: Step
    fault: Fault
    times: float = 1

    @property
    def name(self) -> str:
        how = "once" if self.times == 1 else "always"
        return f"{self.fault.__name__}-{how}-at-{self.step.name}.example.com".lower().replace("_", "-")

    def met(self, proxy: FaultProxy) -> bool:
        """Whether the fault has happened; not, for instance, while the server leaves the CA alone for another's."""
        return proxy.met[self.step, self.fault.__name__, self.name] > 0


CASES = [Case(step, dripping) for step in (Step.NEW_ORDER, Step.FINALIZE, Step.CERTIFICATE)]
CASES += [Case(step, lost, times=math.inf) for step in ORDER_STEPS]
CASES += [Case(step, fault) for fault in PROMPT for step in ORDER_STEPS]


@dataclass(frozen=True, slots=True)
class Outcome:
    replies: list[tuple[str, Reply]]
    last: dict[str, Reply]
    root: bytes
    road: Road


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    """Every case with a name of its own, as many at once as go; then the faults end, and all are asked again."""
    replies: list[tuple[str, Reply]] = []
    with Road(tmp_path_factory.mktemp("road")) as road:
        assert road.server.cert("opens-the-account.example.com").status == 200
        for case in CASES:
            road.proxy.script(case.step, case.fault, times=case.times, name=case.name)
        # A fault that closes the CA keeps those from being met that come a little later, on a slow machine the most.
        for _ in CASES:
            missing = [case.name for case in CASES if not case.met(road.proxy)]
            if missing:
                replies += road.ask(missing[:BATCH]).items()
                road.end_back_off()
        road.mend()
        last = road.ask([case.name for case in CASES])
        yield Outcome(replies, last, road.pebble.root_certificate(), road)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.removesuffix(".example.com"))
def test_a_fault_ends_the_request_and_costs_no_order(outcome: Outcome, case: Case) -> None:
    proxy = outcome.road.proxy
    assert case.met(proxy)
    for name, reply in outcome.replies:
        if name == case.name:
            check_ended(reply)
    verified_leaf(outcome.last[case.name], case.name, outcome.root)
    # An order may be placed again where the server did not get the answer, and only there; not by the same request.
    assert proxy.heard[case.name] <= 1
    assert proxy.orders[case.name] <= 1 + sum(name == case.name for name, _ in outcome.replies)


def test_no_fault_costs_a_certificate(outcome: Outcome) -> None:
    assert outcome.road.pebble.certificate_count() == len(CASES) + 1


def test_no_fault_shows_a_secret_or_a_bug_in_the_log(outcome: Outcome) -> None:
    outcome.road.check_log()
    assert outcome.road.pebble.account_count() == 1


def test_an_answer_that_comes_twice_is_nobody_elses(road: Road) -> None:
    """The second could pass for the answer to the next request on that connection, which is another name's."""
    assert road.server.cert("opens-the-account.example.com").status == 200
    failed: set[str] = set()
    asked: list[str] = []
    for doubles, step in enumerate(ORDER_STEPS, 1):
        at = step.name.lower().replace("_", "-")
        name, *bystanders = (f"{who}-at-{at}.example.com" for who in ("doubled", "first", "second", "third"))
        road.proxy.script(step, doubled, name=name)
        replies = road.ask([name, *bystanders])
        for reply in replies.values():
            check_ended(reply)
        # A newOrder that got the repeated answer fails its request: nobody knows whether there is an order. It keeps
        # no other name from the CA.
        failed |= {name for name, reply in replies.items() if reply.status != 200}
        assert len(failed) <= doubles
        assert {road.proxy.orders[name] for name in replies} == {1}
        asked += replies
    road.end_back_off()
    for name, reply in road.ask(asked).items():
        verified_leaf(reply, name, road.pebble.root_certificate())
        assert road.proxy.orders[name] == (2 if name in failed else 1)
    road.check_log()


# --- many faults at random


@pytest.mark.parametrize("seed", [random.randrange(2**32)], ids=["random"])  # its value is shown where it fails
def test_a_road_full_of_holes_loses_no_name(road: Road, seed: int) -> None:
    names = [f"n{number}.example.com" for number in range(BATCH)]
    road.proxy.at_random([*PROMPT, refused], chance=0.2, seed=seed)
    for _ in range(2):
        for reply in road.ask(names).values():
            check_ended(reply)
        road.end_back_off()
    road.mend()
    for name, reply in road.ask(names).items():
        verified_leaf(reply, name, road.pebble.root_certificate())
        assert road.proxy.heard[name] <= 1
    assert road.pebble.certificate_count() == len(names)
    assert road.pebble.account_count() == 1
    road.check_log()


# --- before the first order


BEFORE_ORDERS = (closed, lost, torn, captive, rate_limited(1))  # none gets through by itself


@pytest.mark.parametrize("step", [Step.DIRECTORY, Step.NEW_NONCE, Step.NEW_ACCOUNT], ids=lambda step: step.name.lower())
def test_a_server_gets_its_account_in_the_end(road: Road, step: Step) -> None:
    for fault in BEFORE_ORDERS:
        road.proxy.script(step, fault)
    name = "site1.example.com"
    reply = road.server.cert(name)
    for _ in BEFORE_ORDERS:
        check_ended(reply)
        if reply.status == 500:
            road.end_back_off()
            reply = road.server.cert(name)
    verified_leaf(reply, name, road.pebble.root_certificate())
    assert all(road.proxy.met[step, fault.__name__, None] for fault in BEFORE_ORDERS)
    assert road.pebble.account_count() == 1
    assert road.pebble.order_count() == 1
    road.check_log()


# --- a crash between any two steps


@dataclass(frozen=True, slots=True)
class Crash:
    step: Step
    forwarding: bool

    @property
    def name(self) -> str:
        return f"{'after' if self.forwarding else 'before'}-{self.step.name.lower().replace('_', '-')}.example.com"


CRASHES = [Crash(step, forwarding) for step in ORDER_STEPS for forwarding in (False, True)]


@pytest.fixture(scope="module")
def crashing_road(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Road]:
    with Road(tmp_path_factory.mktemp("crashing-road")) as road:
        assert road.server.cert("opens-the-account.example.com").status == 200
        yield road
        road.check_log()


@pytest.mark.parametrize("crash", CRASHES, ids=lambda crash: crash.name.removesuffix(".example.com"))
def test_an_order_is_finished_after_a_crash(crashing_road: Road, crash: Crash) -> None:
    road, name = crashing_road, crash.name
    certificates = road.pebble.certificate_count()
    validations = road.pebble.log.count("set VALID")

    def kill() -> None:
        if crash == Crash(Step.CHALLENGE, forwarding=True):
            wait_until(lambda: road.pebble.log.count("set VALID") > validations)
        road.server.process.signal(signal.SIGKILL)

    road.proxy.script(crash.step, tripwire(kill, forwarding=crash.forwarding), name=name)
    with pytest.raises((OSError, http.client.HTTPException)):
        road.server.cert(name)
    road.server.kill()
    road.server.start()
    if crash.step is Step.NEW_ORDER:
        # It died before it knew whether there is an order, so it backs off before it places another.
        for _ in range(2):
            reply = road.server.cert(name)
            assert reply.status == 500
            assert int(reply.headers["retry-after"]) >= 1
        assert road.proxy.orders[name] == crash.forwarding
        road.end_back_off()
    verified_leaf(road.server.cert(name), name, road.pebble.root_certificate())
    assert road.proxy.orders[name] == (2 if crash == Crash(Step.NEW_ORDER, forwarding=True) else 1)
    assert road.pebble.certificate_count() == certificates + 1


def test_a_validation_that_finds_the_server_dead_costs_one_order(crashing_road: Road) -> None:
    road, name = crashing_road, "dead-at-validation.example.com"
    failures = road.pebble.log.count("set INVALID")

    async def fault(exchange: Exchange) -> None:
        road.server.process.signal(signal.SIGKILL)
        await asyncio.to_thread(wait_until, lambda: not road.server.process.running)
        await exchange.forward()

    road.proxy.script(Step.CHALLENGE, fault, name=name)
    with pytest.raises((OSError, http.client.HTTPException)):
        road.server.cert(name)
    road.server.kill()
    wait_until(lambda: road.pebble.log.count("set INVALID") > failures)
    road.server.start()
    reply = road.server.cert(name)
    check_ended(reply)
    road.end_back_off()
    verified_leaf(road.server.cert(name), name, road.pebble.root_certificate())
    assert road.proxy.orders[name] == 2
