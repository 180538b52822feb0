from __future__ import annotations

import asyncio
from pathlib import Path

import httpx2
import pytest

from ssl_cert_server.config.authorities import LETS_ENCRYPT, LETS_ENCRYPT_STAGING
from ssl_cert_server.config.load import parse_config
from ssl_cert_server.config.schema import Config
from ssl_cert_server.errors import NotPermitted, StorageError
from ssl_cert_server.model import Certificate, KeyFamily, Permission, Subject
from ssl_cert_server.renewal.plan import RenewalPlan
from ssl_cert_server.server.compose import compose, policy_rules
from ssl_cert_server.service.attempts import Issued, Wanted
from ssl_cert_server.service.authorities import Authorities
from ssl_cert_server.service.policy import Decision, Policy, PolicyRules, SelfSignedRule, Source
from ssl_cert_server.service.records import IssuedRecord
from tests.support.clock import AutoClock, ManualClock
from tests.support.leaves import make_certificate

BACKGROUND = {
    "state.held",
    "managed.watch",
    "changes",
    "renewal",
    "renewal.index",
    "renewal.seen",
    "renewal.advice",
    "ocsp",
    "ocsp.wanted",
    "renewal.expiry",
    "managed.expiry",
    "http01.left_over",
    "budget.sweep",
    "state.sweep",
    "write_back",
}


def _load(text: str) -> Config:
    return parse_config(text, "conf.yaml")


class TestPolicyRules:
    """What a configuration permits."""

    def test_every_rule_of_a_file_arrives(self) -> None:
        rules = policy_rules(
            _load(r"""
managed: [{pattern: 'a\.com', cert_key: one}, {pattern: 'b\.com', cert_key: two}]
domains: [d.com]
re_patterns: ['.+\.p\.com']
lets_encrypt: {force_rsa: true, domains: [e.com], re_patterns: ['q\.com']}
self_signed: {enable: true, check_sni: true, cert_key: fallback}
local_ca: {enable: true, names: ['.+\.test']}
""")
        )
        assert rules == PolicyRules(
            managed=[(r"a\.com", "one"), (r"b\.com", "two")],
            domains=("d.com", "e.com"),
            patterns=(r".+\.p\.com", r"q\.com"),
            families=(KeyFamily.RSA,),
            local_ca_patterns=(r".+\.test",),
            self_signed=SelfSignedRule("fallback", check_sni=True),
        )

    def test_wildcards_families_and_ask_arrive(self) -> None:
        rules = policy_rules(
            _load(r"""
wildcards: ['*.w.com']
on_demand: {max_labels: 4}
ask: {url: 'http://127.0.0.1:1/'}
acme: [{directory_url: 'https://ca.test/dir', key_type: [rsa-2048, ecdsa-p384]}]
challenges: {dns01: {provider: exec, options: {command: /bin/true}}}
""")
        )
        assert (rules.wildcards, rules.max_labels, rules.ask) == (("*.w.com",), 4, True)
        assert rules.families == (KeyFamily.RSA, KeyFamily.ECDSA)

    def test_an_empty_file_permits_nothing(self) -> None:
        assert policy_rules(_load("{}")) == PolicyRules(managed=[], domains=(), patterns=(), local_ca_patterns=())

    @pytest.mark.parametrize("section", ["self_signed: {cert_key: fallback}", "local_ca: {names: ['.+']}"])
    def test_what_is_not_enabled_answers_nothing(self, section: str) -> None:
        with pytest.raises(NotPermitted):
            Policy(policy_rules(_load(section))).decide("a.test")

    @pytest.mark.parametrize(
        "name", ["localhost", "app.localhost", "a.test", "b.c.internal", "home.arpa", "nas.home.arpa"]
    )
    def test_without_a_file_the_local_ca_answers_names_for_development(self, name: str) -> None:
        assert Policy(policy_rules(Config())).decide(name) == Decision(Source.LOCAL_CA)

    @pytest.mark.parametrize("name", ["example.com", "test", "internal", "a.test.com", "xlocalhost", "arpa"])
    def test_without_a_file_no_public_name_is_permitted(self, name: str) -> None:
        with pytest.raises(NotPermitted):
            Policy(policy_rules(Config())).decide(name)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("", LETS_ENCRYPT),
        ("lets_encrypt: {staging: true}", LETS_ENCRYPT_STAGING),
        ("acme: [{directory_url: 'https://ca.test/dir'}]", "https://ca.test/dir"),
    ],
)
async def test_the_configured_ca_is_the_one_that_is_asked(
    text: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    heard = asyncio.Event()

    async def refuse(_: httpx2.AsyncHTTPTransport, request: httpx2.Request) -> httpx2.Response:
        asked.append(str(request.url))
        heard.set()
        raise httpx2.ConnectError("no network in this test")

    monkeypatch.setattr(httpx2.AsyncHTTPTransport, "handle_async_request", refuse)
    monkeypatch.chdir(tmp_path)
    async with compose(_load(f"domains: [a.com]\n{text}"), ManualClock()) as parts:
        transport = httpx2.ASGITransport(app=parts.app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://server") as client:
            asking = asyncio.create_task(client.get("/cert/a.com"))
            async with asyncio.timeout(60):
                await heard.wait()
            asking.cancel()
            await asyncio.wait([asking])
    assert set(asked) == {url}


async def test_what_was_issued_is_scheduled_as_new_and_hot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = make_certificate("a.com")
    scheduled: list[tuple[str, Certificate]] = []

    async def issue(*_: object) -> Issued:
        return Issued(certificate, LETS_ENCRYPT, "http-01")

    monkeypatch.setattr(Authorities, "issue", issue)

    async def plan(self: RenewalPlan, subject: Subject, new: Certificate, record: IssuedRecord) -> None:
        scheduled.append((subject.cert_key, new))

    monkeypatch.setattr(RenewalPlan, "stored", plan)
    monkeypatch.chdir(tmp_path)
    async with compose(_load("domains: [a.com]"), ManualClock()) as parts:
        transport = httpx2.ASGITransport(app=parts.app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://server") as client:
            assert (await client.get("/cert/a.com")).json()["fingerprint"] == certificate.fingerprint
        assert scheduled == [("a.com", certificate)]
        assert parts.protocol.hot("a.com")


async def test_giving_up_answers_those_who_wait_and_tells_them_to_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = asyncio.Event()

    async def say_nothing(_: httpx2.AsyncHTTPTransport, __: httpx2.Request) -> httpx2.Response:
        heard.set()
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(httpx2.AsyncHTTPTransport, "handle_async_request", say_nothing)
    monkeypatch.chdir(tmp_path)
    async with compose(_load("domains: [a.com]"), ManualClock()) as parts:
        transport = httpx2.ASGITransport(app=parts.app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://server") as client:
            asking = asyncio.create_task(client.get("/cert/a.com"))
            async with asyncio.timeout(60):
                await heard.wait()
            await parts.give_up()
            response = await asking
    assert response.status_code == 500
    assert int(response.headers["retry-after"]) > 0


async def test_the_embedded_defaults_answer_a_local_name_and_the_second_time_hot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    clock = ManualClock()
    async with compose(Config(), clock) as parts:
        transport = httpx2.ASGITransport(app=parts.app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://server") as client:
            assert parts.protocol.hot("hello.test") is None
            response = await client.get("/cert/hello.test")
            assert (response.status_code, response.json()["type"]) == (200, 100)
            hot = parts.protocol.hot("hello.test")
            assert hot
            assert hot.body == response.content
            assert (await client.get("/readyz")).status_code == 200
        assert set(parts.background) == BACKGROUND


async def test_with_preload_what_is_listed_is_issued_before_anybody_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted: list[Subject] = []

    async def issue(_: Authorities, want: Wanted, *__: object) -> Issued:
        wanted.append(want.subject)
        return Issued(make_certificate(*want.subject.names), LETS_ENCRYPT, "http-01")

    monkeypatch.setattr(Authorities, "issue", issue)
    monkeypatch.chdir(tmp_path)
    async with compose(_load("{preload: true, domains: [a.com], re_patterns: ['b.com']}"), ManualClock()) as parts:
        assert set(parts.background) == {*BACKGROUND, "preload"}
        async with asyncio.timeout(60):
            await parts.background["preload"]()
    assert wanted == [Subject("a.com", ("a.com",), permission=Permission.LISTED)]


async def test_every_ca_of_the_list_is_asked_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def refuse(_: httpx2.AsyncHTTPTransport, request: httpx2.Request) -> httpx2.Response:
        asked.append(str(request.url))
        return httpx2.Response(403)

    monkeypatch.setattr(httpx2.AsyncHTTPTransport, "handle_async_request", refuse)
    monkeypatch.chdir(tmp_path)
    urls = [f"https://ca-{number}.test/dir" for number in (1, 2)]
    text = f"domains: [a.com]\nacme: [{', '.join(f'{{directory_url: {url!r}}}' for url in urls)}]"
    async with compose(_load(text), AutoClock()) as parts:
        transport = httpx2.ASGITransport(app=parts.app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://server") as client:
            assert (await client.get("/cert/a.com")).status_code == 500
    assert [*dict.fromkeys(asked)] == urls


async def test_storage_that_cannot_be_opened_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret-dir").write_text("a file, not a folder")
    with pytest.raises(StorageError, match="secret-dir"):
        async with compose(Config(), ManualClock()):
            pytest.fail("it must not come this far")
