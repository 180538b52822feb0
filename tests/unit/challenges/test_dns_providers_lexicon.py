"""dns-lexicon's providers: in threads that may hang, with errors that hold no secret, and without any download."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import threading
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import requests
import tldextract
import tldextract.tldextract
from lexicon.config import ConfigResolver
from lexicon.exceptions import AuthenticationError
from lexicon.interfaces import Provider

from ssl_cert_server.challenges.dns01.providers import catalogue, lexicon, turns
from ssl_cert_server.challenges.dns01.providers.lexicon import LexiconProvider
from ssl_cert_server.challenges.dns01.providers.registry import make_provider
from ssl_cert_server.challenges.dns01.providers.turns import SIDE_BY_SIDE
from ssl_cert_server.errors import ChallengeFailed, LookupFailed
from tests.support.leaks import told_by
from tests.support.waiting import wait_until

RECORD = "_acme-challenge.www.example.com"
TOKEN = "hunter2/secret+token"
ONE, TWO = "A" * 43, "-" * 43


class Script:
    """What the scripted provider has done and shall do."""

    def __init__(self) -> None:
        self.values: dict[str, list[str]] = {}
        self.calls: list[str] = []
        self.seen: dict[str, Any] = {}
        self.fail: Callable[[], object] = lambda: None
        self.now, self.most = 0, 0
        self.lock = threading.Lock()


class Gate:
    """Holds a thread up."""

    def __init__(self) -> None:
        self.begun, self.released = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.begun.set()
        assert self.released.wait(30)


class Scripted(Provider):
    """A provider that reads and writes whole record sets, and is angry about records that aren't there."""

    script: Script

    @staticmethod
    def get_nameservers() -> list[str]:
        return []

    @staticmethod
    def configure_parser(parser: ArgumentParser) -> None:
        parser.add_argument("--auth-token")
        parser.add_argument("--some-flag", action="store_true")

    def authenticate(self) -> None:
        script = self.script
        with script.lock:
            script.now += 1
            script.most = max(script.most, script.now)
        try:
            self.script.seen = {
                "domain": self.domain,
                "own_domain": self._get_provider_option("domain"),
                "token": self._get_provider_option("auth_token"),
                "hyphens": self._get_provider_option("auth-token"),
                "flag": self._get_provider_option("some_flag"),
                "ttl": self._get_lexicon_option("ttl"),
            }
            script.fail()
        finally:
            with script.lock:
                script.now -= 1

    def cleanup(self) -> None:
        self.script.calls.append("cleanup")

    def create_record(self, rtype: str, name: str, content: str) -> bool:
        assert rtype == "TXT"
        values = list(self.script.values.get(name, []))
        self.script.values[name] = [*values, content]
        return False

    def list_records(
        self, rtype: str | None = None, name: str | None = None, content: str | None = None
    ) -> list[dict[str, Any]]:
        return [{"content": value} for value in self.script.values.get(name or "", []) if value == content]

    def update_record(self, *args: Any, **kwargs: Any) -> bool:
        raise AssertionError("nothing is ever updated")

    def delete_record(
        self,
        identifier: str | None = None,
        rtype: str | None = None,
        name: str | None = None,
        content: str | None = None,
    ) -> bool:
        assert (identifier, rtype) == (None, "TXT")
        assert name is not None
        if content not in self.script.values.get(name, []):
            raise ValueError("no such record")
        self.script.values[name].remove(content)
        return True


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    module = ModuleType("scripted")
    module.Provider = Scripted  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lexicon._private.providers.scripted", module)
    monkeypatch.setattr(catalogue, "find_providers", lambda: {"scripted": True})
    Scripted.script = Script()
    catalogue.provider_names.cache_clear()
    yield Scripted.script
    catalogue.provider_names.cache_clear()
    catalogue._actions.cache_clear()


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Who wanted to reach anybody."""
    wanted: list[object] = []

    def refuse(*args: object, **kwargs: object) -> None:
        wanted.append(args)
        raise OSError("no network in unit tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return wanted


async def find_zone(name: str) -> str:
    return "example.com"


def made(deadline: float = 10.0, **options: str) -> LexiconProvider:
    return LexiconProvider("scripted", {"auth_token": TOKEN, **options}, find_zone, deadline=deadline)


async def test_values_are_added_beside_others_and_removed_alone(script: Script, sockets: list[object]) -> None:
    provider = make_provider("lexicon:scripted", {"auth_token": TOKEN}, find_zone)
    await provider.add(RECORD, ONE)
    await provider.add(RECORD, TWO)
    assert script.values == {RECORD: [ONE, TWO]}
    await provider.remove(RECORD, ONE)
    assert script.values == {RECORD: [TWO]}
    await provider.remove(RECORD, ONE)
    assert script.calls == ["cleanup"] * 4
    assert sockets == []


async def test_the_zone_is_the_one_that_was_found_and_options_arrive(script: Script) -> None:
    await made(some_flag="true").add(RECORD, ONE)
    assert script.seen == {
        "domain": "example.com",
        "own_domain": "example.com",
        "token": TOKEN,
        "hyphens": TOKEN,
        "flag": True,
        "ttl": 3600,
    }


@pytest.mark.parametrize("zone", ["www.example.com", "com", "example.com."])
async def test_a_configured_zone_is_taken_as_it_is(script: Script, zone: str) -> None:
    async def never(name: str) -> str:
        raise AssertionError

    await LexiconProvider("scripted", {"zone": zone, "ttl": "60"}, never).add(RECORD, ONE)
    assert script.seen["domain"] == zone.rstrip(".")
    assert script.seen["ttl"] == 60


@pytest.mark.parametrize("zone", ["example.net", "ample.com"])
async def test_a_record_outside_the_configured_zone_is_refused(script: Script, zone: str) -> None:
    with pytest.raises(ChallengeFailed, match=rf"{RECORD}: it is not in the zone {zone} that is configured"):
        await made(zone=zone).add(RECORD, ONE)
    assert script.seen == {}


async def test_a_zone_that_is_not_found_is_told(script: Script) -> None:
    async def lost(name: str) -> str:
        raise LookupFailed("no server answered")

    with pytest.raises(ChallengeFailed, match=r"its zone can't be found \(no server answered\); give it as zone"):
        await LexiconProvider("scripted", {}, lost).add(RECORD, ONE)


def failing(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def http_error(status: int, text: str) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    response.url = f"https://api.test/x?token={TOKEN}"
    response._content = text.encode()
    return requests.HTTPError(f"{status} for url {response.url}", response=response)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (http_error(403, f'{{"error": "token {TOKEN} is\n not valid"}}'), 'HTTP 403: {"error": "token <hidden> is not'),
        (http_error(500, ""), "HTTP 500"),
        (requests.ConnectionError(f"with url: /x?t={TOKEN}"), "it can't be reached (ConnectionError)"),
        (requests.ReadTimeout(f"{TOKEN}"), "it did not answer in time"),
        (AuthenticationError("No domain found"), "it refused the credentials, or has no such zone: No domain found"),
        (TypeError("argument is NoneType"), "TypeError: argument is NoneType; check that no option is missing"),
        (ValueError("see https://u:p@api.test/secret/path?x=1"), "ValueError: see https://api.test"),
        (ValueError("hunter2%2Fsecret%2Btoken"), "ValueError: <hidden>"),
        (ValueError("session 0123456789abcdef0123456789abcdef"), "ValueError: session <hidden>"),
        (ValueError("GET /list?session=abc&zone=x"), "ValueError: GET /list?session=<hidden>&zone=<hidden>"),
        (SystemExit(1), "SystemExit: 1"),
        (StopIteration(), "StopIteration: "),
    ],
)
async def test_errors_are_words_without_credentials(script: Script, error: BaseException, said: str) -> None:
    script.fail = failing(error)
    with pytest.raises(ChallengeFailed) as raised:
        await made().add(RECORD, ONE)
    assert str(raised.value).startswith(f"lexicon:scripted can't add a TXT record {RECORD}: {said}")
    told = told_by(raised.value)
    assert TOKEN not in told
    assert "hunter2" not in told
    assert "\n" not in str(raised.value)


async def test_what_removing_fails_of_is_told_if_the_value_is_still_there(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    script.values[RECORD] = [ONE]
    monkeypatch.setattr(Scripted, "delete_record", lambda *args, **rest: failing(ValueError("locked"))())
    with pytest.raises(ChallengeFailed, match=r"can't remove a TXT record .*: ValueError: locked"):
        await made().remove(RECORD, ONE)
    await made().remove(RECORD, TWO)


async def test_a_thread_that_hangs_holds_up_nobody_else(script: Script) -> None:
    script.fail = gate = Gate()
    provider = made(deadline=0.05)
    try:
        for _ in range(SIDE_BY_SIDE + 2):
            with pytest.raises(ChallengeFailed, match=r"no answer within 0\.05 s"):
                await provider.add(RECORD, ONE)
        await asyncio.to_thread(wait_until, lambda: script.now == SIDE_BY_SIDE)
        assert script.most == SIDE_BY_SIDE
        assert all(thread.daemon for thread in threading.enumerate() if thread.name == "lexicon-scripted")
    finally:
        gate.released.set()
    provider._deadline = 10.0
    script.fail = lambda: None
    await provider.add(RECORD, TWO)
    assert TWO in script.values[RECORD]


async def test_changes_to_one_zone_are_made_one_at_a_time_and_four_zones_at_once(script: Script) -> None:
    async def zone_of(name: str) -> str:
        return name.split(".", 2)[2]

    provider = LexiconProvider("scripted", {}, zone_of)
    await asyncio.gather(*(provider.add(f"_acme-challenge.{n}.example.com", ONE) for n in range(12)))
    assert script.most == 1
    barrier = threading.Barrier(SIDE_BY_SIDE)
    script.fail = lambda: barrier.wait(60)
    await asyncio.gather(*(provider.add(f"_acme-challenge.a.example{n}.com", ONE) for n in range(2 * SIDE_BY_SIDE)))
    assert script.most == SIDE_BY_SIDE
    assert provider._turns._places == {}


async def test_waiting_for_a_turn_ends(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "TURN_DEADLINE", 0.05)
    script.fail = gate = Gate()
    provider = made()
    first = asyncio.create_task(provider.add(RECORD, ONE))
    await asyncio.sleep(0)
    try:
        with pytest.raises(ChallengeFailed, match=r"lexicon:scripted: no turn for example\.com within 0\.05 s"):
            await provider.add(RECORD, TWO)
    finally:
        gate.released.set()
    await first
    assert script.values[RECORD] == [ONE]


async def test_cancelling_returns_at_once_and_frees_the_turn(script: Script) -> None:
    script.fail = gate = Gate()
    provider = made()
    task = asyncio.create_task(provider.add(RECORD, ONE))
    await asyncio.to_thread(gate.begun.wait, 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert provider._turns._places == {}
    gate.released.set()
    script.fail = lambda: None
    await provider.add(RECORD, TWO)


def test_a_loop_that_is_closed_meanwhile_breaks_nothing(script: Script) -> None:
    script.fail = gate = Gate()
    before = threading.enumerate()  # of other tests, which may not have ended yet

    async def leave() -> None:
        with pytest.raises(ChallengeFailed):
            await made(deadline=0.05).add(RECORD, ONE)

    asyncio.run(leave())
    (thread,) = [one for one in threading.enumerate() if one.name == "lexicon-scripted" and one not in before]
    gate.released.set()
    thread.join(60)  # pytest makes an error of an exception in a thread
    assert not thread.is_alive()


def test_splitting_names_downloads_nothing_and_writes_nothing(
    sockets: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    tldextract.tldextract.TLD_EXTRACTOR.update()
    assert tldextract.extract("a.b.example.co.uk").suffix == "co.uk"
    assert sockets == []
    assert list(tmp_path.iterdir()) == []
    # The guard is no blind one: this is what would have happened.
    tldextract.TLDExtract(cache_dir=None)("a.example.co.uk")
    assert sockets


def test_requests_of_providers_that_set_no_timeout_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    timeouts: list[object] = []

    def send(self: object, request: object, stream: bool, timeout: object, *rest: object) -> requests.Response:
        timeouts.append(timeout)
        response = requests.Response()
        response.status_code = 200
        return response

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", send)
    requests.get("http://127.0.0.1:9/")
    requests.Session().get("http://127.0.0.1:9/", timeout=5)
    assert timeouts == [lexicon.SOCKET_TIMEOUT, 5]


def test_lexicons_own_log_records_are_dropped() -> None:
    assert not logging.getLogger("lexicon._private.providers.gehirn").isEnabledFor(logging.CRITICAL)


def test_the_private_module_still_has_what_we_take_from_it() -> None:
    powerdns = catalogue.provider_class("powerdns")
    assert issubclass(powerdns, Provider)
    config = ConfigResolver().with_dict(  # type: ignore[no-untyped-call]
        {
            "provider_name": "powerdns",
            "domain": "example.com",
            "powerdns": {"pdns_server": "http://x", "auth_token": "t"},
        }
    )
    assert powerdns(config).domain == "example.com"
