"""The providers at work: real name servers, real programs, real HTTP, and what is in DNS afterwards."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dns.message
import dns.query
import dns.rdatatype
import pytest

from ssl_cert_server.challenges.dns01.providers.registry import make_provider
from ssl_cert_server.errors import ChallengeFailed
from tests.support.knot import Knot
from tests.support.leaks import told_by
from tests.support.loop_time import LoopTime, settle
from tests.support.pdns import PowerDns
from tests.support.ports import free_port

RECORD = "_acme-challenge.example.com"
ONE, TWO = "A-" + "z" * 39 + "_1", "-_" + "0" * 41
OTHER_KEY = "b3RoZXItb3RoZXItb3RoZXItb3RoZXI="


async def find_zone(name: str) -> str:
    return "example.com"


def values_at(port: int, record: str = RECORD) -> set[str]:
    """What the server on this port says that the record holds."""
    question = dns.message.make_query(record, "TXT")
    answer = dns.query.udp(question, "127.0.0.1", port=port, timeout=60)
    rrsets = [rrset for rrset in answer.answer if rrset.rdtype == dns.rdatatype.TXT]
    return {rdata.strings[0].decode() for rrset in rrsets for rdata in rrset}


async def add_and_remove(kind: str, options: dict[str, str], port: int) -> None:
    """Two values at one name, which come and go one by one, also when they were there, or gone, already."""
    provider = make_provider(kind, options, find_zone)
    await provider.add(RECORD, ONE)
    assert values_at(port) == {ONE}
    await provider.add(RECORD, TWO)
    await provider.add(RECORD, TWO)
    assert values_at(port) == {ONE, TWO}
    await provider.remove(RECORD, ONE)
    await provider.remove(RECORD, ONE)
    assert values_at(port) == {TWO}
    await provider.remove(RECORD, TWO)
    assert values_at(port) == set()
    await provider.remove(RECORD, TWO)


async def refused(kind: str, options: dict[str, str]) -> str:
    """What the error says; it must hold none of the options that are secret."""
    with pytest.raises(ChallengeFailed) as raised:
        await make_provider(kind, options, find_zone).add(RECORD, ONE)
    for secret in ("tsig_secret", "auth_token", "password"):
        assert options.get(secret, "?!") not in told_by(raised.value)
    return str(raised.value)


# --- RFC 2136


@pytest.fixture(scope="module")
def knot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Knot]:
    with Knot(tmp_path_factory.mktemp("knot"), frozen=["frozen.test"]) as running:
        yield running


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
async def test_signed_updates_change_one_value_at_a_time(knot: Knot, protocol: str) -> None:
    await add_and_remove("rfc2136", {**knot.options, "protocol": protocol}, knot.port)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"tsig_secret": OTHER_KEY}, "it has another secret for the key update-key"),
        ({"tsig_name": "nobody"}, "it doesn't accept the key nobody with hmac-sha256 for this zone (BADKEY)"),
        ({"zone": "com"}, "it doesn't hold the zone com"),
        ({"server": "127.0.0.1:1"}, "it can't be reached: Connection refused"),
    ],
)
async def test_updates_that_the_server_refuses(knot: Knot, protocol: str, wrong: dict[str, str], said: str) -> None:
    assert said in await refused("rfc2136", {**knot.options, "protocol": protocol, **wrong})
    assert values_at(knot.port) == set()


async def test_a_key_that_may_not_change_the_zone(knot: Knot) -> None:
    provider = make_provider("rfc2136", {**knot.options, "zone": "frozen.test"}, find_zone)
    with pytest.raises(ChallengeFailed, match="for this zone"):
        await provider.add("_acme-challenge.frozen.test", ONE)
    assert values_at(knot.port, "_acme-challenge.frozen.test") == set()


# --- dns-lexicon


@pytest.fixture(scope="module")
def power_dns(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PowerDns]:
    with PowerDns(tmp_path_factory.mktemp("pdns")) as running:
        yield running


async def test_lexicon_changes_one_value_at_a_time(power_dns: PowerDns) -> None:
    await add_and_remove("lexicon:powerdns", power_dns.options, power_dns.port)


async def test_values_set_at_the_same_moment_are_all_there(power_dns: PowerDns) -> None:
    provider = make_provider("lexicon:powerdns", power_dns.options, find_zone)
    values = {f"{number:043}" for number in range(6)}
    await asyncio.gather(*(provider.add(RECORD, value) for value in values))
    assert values_at(power_dns.port) == values
    await asyncio.gather(*(provider.remove(RECORD, value) for value in values))
    assert values_at(power_dns.port) == set()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"auth_token": "wrong-wrong"}, "HTTP 401: Unauthorized"),
        ({"zone": "com"}, "HTTP 404: Not Found"),
        ({"pdns_server": "http://127.0.0.1:1"}, "it can't be reached (ConnectionError)"),
    ],
)
async def test_what_lexicon_is_refused(power_dns: PowerDns, wrong: dict[str, str], said: str) -> None:
    assert (await refused("lexicon:powerdns", {**power_dns.options, **wrong})).endswith(said)


def test_a_hanging_call_does_not_delay_the_end_of_the_process(tmp_path: Path) -> None:
    """The API accepts connections and never answers; the process must end all the same."""
    script = """
        import asyncio, socket
        from ssl_cert_server.challenges.dns01.providers import lexicon
        from ssl_cert_server.errors import ChallengeFailed

        async def find_zone(name):
            return "example.com"

        lexicon.SOCKET_TIMEOUT = 600.0

        async def main():
            with socket.create_server(("127.0.0.1", 0)) as deaf:
                url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
                options = {"pdns_server": url, "auth_token": "t"}
                provider = lexicon.LexiconProvider("powerdns", options, find_zone, deadline=0.2)
                try:
                    await provider.add("_acme-challenge.example.com", "value")
                except ChallengeFailed as error:
                    print(error)
                return deaf.detach()  # stays open, so that the thread goes on waiting

        asyncio.run(main())
        print("ended")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
    assert done.returncode == 0
    assert "no answer within 0.2 s" in done.stdout
    assert done.stdout.endswith("ended\n")


# --- exec


def program(folder: Path, body: str) -> str:
    path = folder / "update-dns"
    path.write_text(f"#!/bin/sh\ncd {folder}\n{body}\n")
    path.chmod(0o755)
    return str(path)


async def test_a_program_is_called_as_lego_calls_it(tmp_path: Path) -> None:
    command = program(tmp_path, 'for arg; do echo "$arg"; done >> calls; env > environment')
    provider = make_provider("exec", {"command": f"{command} 'fixed arg'"}, find_zone)
    os.environ["DNS_TEST_SECRET"] = "not for programs"
    try:
        await provider.add(RECORD, TWO)
        await provider.remove(RECORD, TWO)
    finally:
        del os.environ["DNS_TEST_SECRET"]
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls == ["fixed arg", "present", f"{RECORD}.", TWO, "fixed arg", "cleanup", f"{RECORD}.", TWO]
    environment = (tmp_path / "environment").read_text()
    assert f"PATH={os.environ['PATH']}" in environment
    assert "DNS_TEST_SECRET" not in environment


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("echo first; echo 'no such zone' >&2; echo; exit 3", "ended with status 3; its last line: no such zone"),
        ("exit 1", "ended with status 1; it printed nothing"),
        (r"printf 'red \033[31m\007 alert\n'; exit 1", "ended with status 1; its last line: red  [31m  alert"),
        ("kill -TERM $$", "was ended by SIGTERM; it printed nothing"),
        ("head -c 300000 /dev/zero | tr '\\0' 'x'; echo; echo last; exit 1", "its last line: last"),
    ],
)
async def test_what_a_failing_program_printed_last_is_told(tmp_path: Path, body: str, said: str) -> None:
    with pytest.raises(ChallengeFailed) as raised:
        await make_provider("exec", {"command": program(tmp_path, body)}, find_zone).add(RECORD, ONE)
    assert str(raised.value).startswith(f"{tmp_path}/update-dns present {RECORD}. ")
    assert str(raised.value).endswith(said)


async def test_a_program_that_cant_be_started_is_told(tmp_path: Path) -> None:
    (tmp_path / "update-dns").write_bytes(b"\x7fELF no program")
    (tmp_path / "update-dns").chmod(0o755)
    with pytest.raises(ChallengeFailed, match="can't be started: Exec format error"):
        await make_provider("exec", {"command": str(tmp_path / "update-dns")}, find_zone).add(RECORD, ONE)


async def is_gone(pid: int) -> bool:
    """Within a minute; what is a zombie only, for want of an init that reaps it, is gone too."""
    for _ in range(6000):
        try:
            state = await asyncio.to_thread(Path(f"/proc/{pid}/stat").read_text)
        except FileNotFoundError:
            return True
        if state.rpartition(")")[2].split()[0] == "Z":
            return True
        await asyncio.sleep(0.01)
    return False


async def test_a_program_past_its_deadline_is_killed_with_its_children(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "started")
    command = program(tmp_path, "sleep 600 & echo working; echo $! > started; wait")
    time = LoopTime()
    task = asyncio.create_task(
        make_provider("exec", {"command": command, "timeout": "170"}, find_zone).add(RECORD, ONE)
    )
    child = int(await asyncio.to_thread((tmp_path / "started").read_text))
    await settle()  # what it printed before is read
    await time.advance(170)
    with pytest.raises(ChallengeFailed, match="did not end within 170 s; its last line: working"):
        await task
    assert await is_gone(child)


async def test_a_cancelled_program_is_killed_with_its_children(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "started")
    command = program(tmp_path, "sleep 600 & echo $! > started; wait")
    task = asyncio.create_task(make_provider("exec", {"command": command}, find_zone).add(RECORD, ONE))
    child = int(await asyncio.to_thread((tmp_path / "started").read_text))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await is_gone(child)


async def test_a_program_cancelled_while_it_is_being_started_is_killed_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "started")
    command = program(tmp_path, "sleep 600 & echo $! > started; wait")
    start, known = asyncio.create_subprocess_exec, asyncio.Event()

    async def start_slowly(*argv: Any, **options: Any) -> asyncio.subprocess.Process:
        child = await start(*argv, **options)
        await known.wait()
        return child

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start_slowly)
    task = asyncio.create_task(make_provider("exec", {"command": command}, find_zone).add(RECORD, ONE))
    child = int(await asyncio.to_thread((tmp_path / "started").read_text))
    task.cancel()
    await asyncio.sleep(0)
    known.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await is_gone(child)


async def test_what_a_program_leaves_in_the_background_holds_up_nobody(tmp_path: Path) -> None:
    command = program(tmp_path, "sleep 600 & echo $! > child; exit 0")
    try:
        async with asyncio.timeout(60):
            await make_provider("exec", {"command": command}, find_zone).add(RECORD, ONE)
    finally:
        os.kill(int((tmp_path / "child").read_text()), 9)


# --- httpreq and acme-dns


class Service(ThreadingHTTPServer):
    """Remembers what was posted; answers by path, and sends everybody elsewhere from ``/moved``."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", free_port()), _Handler)
        self.posted: list[tuple[str, dict[str, str]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.posted.append((self.path, body))
        moved = self.path.startswith("/moved")
        allowed = self.headers.get("X-Api-Key", "right") == "right"
        answer = b"{}" if allowed else b'{"error": "forbidden"}'
        self.send_response(307 if moved else 200 if allowed else 401)
        if moved:
            self.send_header("Location", "/present")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as serving:
        thread = threading.Thread(target=serving.serve_forever, args=(0.01,))
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


async def test_httpreq_over_http(service: Service) -> None:
    provider = make_provider("httpreq", {"endpoint": service.url}, find_zone)
    await provider.add(RECORD, ONE)
    await provider.remove(RECORD, ONE)
    body = {"fqdn": f"{RECORD}.", "value": ONE}
    assert service.posted == [("/present", body), ("/cleanup", body)]


async def test_httpreq_goes_nowhere_else(service: Service) -> None:
    said = await refused("httpreq", {"endpoint": f"{service.url}/moved", "password": "secret"})
    assert said.endswith("HTTP 307: {}")
    assert [path for path, _ in service.posted] == ["/moved/present"]
    assert "ConnectError" in await refused("httpreq", {"endpoint": "http://127.0.0.1:1"})


async def test_acme_dns_over_http(service: Service, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("right\n")
    account = {"server": service.url, "username": "u", "subdomain": "_acme-challenge"}
    provider = make_provider("acme-dns", {**account, "password_file": str(tmp_path / "password")}, find_zone)
    await provider.add(RECORD, ONE)
    assert service.posted == [("/update", {"subdomain": "_acme-challenge", "txt": ONE})]
    said = await refused("acme-dns", {**account, "password": "wrong"})
    assert said.endswith('HTTP 401: {"error": "forbidden"}')
