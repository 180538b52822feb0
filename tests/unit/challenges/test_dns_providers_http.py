"""httpreq and acme-dns: what is sent, and what is said when it fails."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable

import httpx2
import pytest

from ssl_cert_server.challenges.dns01.providers.acme_dns import AcmeDnsProvider
from ssl_cert_server.challenges.dns01.providers.httpreq import HttpreqProvider
from ssl_cert_server.challenges.dns01.providers.web import MAX_BODY, WebService
from ssl_cert_server.challenges.dns01.providers.words import MAX_WORDS, Words
from ssl_cert_server.errors import ChallengeFailed
from tests.support.leaks import told_by

RECORD = "_acme-challenge.example.com"
VALUE = "A-" + "z" * 39 + "_1"
PASSWORD = "correct horse battery"
OWN = "d420c923-bbd7-4056-ab64-c3ca54c9b3cf"

Handler = Callable[[httpx2.Request], httpx2.Response]


class Seen:
    """Requests in order; each is answered with ``answer``."""

    def __init__(self, answer: httpx2.Response | Exception | None = None) -> None:
        self.requests: list[httpx2.Request] = []
        self._answer = answer or httpx2.Response(200)

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


def httpreq(handler: Handler, **options: str) -> HttpreqProvider:
    return HttpreqProvider({"endpoint": "https://d.test/api/", **options}, transport=httpx2.MockTransport(handler))


def acme_dns(handler: Handler, **options: str) -> AcmeDnsProvider:
    account = {"server": "https://d.test", "username": "the-user", "password": PASSWORD, "subdomain": OWN}
    return AcmeDnsProvider({**account, **options}, transport=httpx2.MockTransport(handler))


async def test_httpreq_posts_what_lego_posts() -> None:
    seen = Seen(httpx2.Response(204))
    provider = httpreq(seen, username="me", password=PASSWORD)
    await provider.add(RECORD, VALUE)
    await provider.remove(RECORD, VALUE)
    assert [(request.method, str(request.url)) for request in seen.requests] == [
        ("POST", "https://d.test/api/present"),
        ("POST", "https://d.test/api/cleanup"),
    ]
    for request in seen.requests:
        assert json.loads(request.content) == {"fqdn": f"{RECORD}.", "value": VALUE}
        assert request.headers["content-type"] == "application/json"
        assert request.headers["authorization"] == "Basic " + base64.b64encode(f"me:{PASSWORD}".encode()).decode()


async def test_httpreq_without_a_user_name_sends_no_credentials() -> None:
    seen = Seen()
    await httpreq(seen).add(RECORD, VALUE)
    assert "authorization" not in seen.requests[0].headers


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (httpx2.Response(401), "HTTP 401"),
        (httpx2.Response(500, text=f"no\nzone for {PASSWORD}"), "HTTP 500: no zone for <hidden>"),
        (httpx2.Response(302, headers={"Location": "https://elsewhere.test/"}), "HTTP 302"),
        (httpx2.ConnectError("Connection refused"), "ConnectError: Connection refused"),
        (httpx2.ConnectError(f"bad {PASSWORD}"), "ConnectError: bad <hidden>"),
    ],
)
async def test_failures_are_told_without_the_password(answer: httpx2.Response | Exception, said: str) -> None:
    seen = Seen(answer)
    with pytest.raises(ChallengeFailed) as raised:
        await httpreq(seen, username="me", password=PASSWORD).add(RECORD, VALUE)
    assert str(raised.value) == f"httpreq: can't present {RECORD} at https://d.test/api/: {said}"
    assert PASSWORD not in told_by(raised.value)
    assert len(seen.requests) == 1  # redirects are not followed


class Endless(httpx2.AsyncByteStream):
    def __init__(self, pause: float) -> None:
        self.sent = 0
        self._pause = pause

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(self._pause)
            self.sent += 1024
            yield b"x" * 1024


async def test_an_endless_answer_is_not_read_to_its_end() -> None:
    body = Endless(0)
    await httpreq(Seen(httpx2.Response(200, stream=body))).add(RECORD, VALUE)
    assert body.sent <= MAX_BODY + 1024


async def test_a_dripping_answer_ends_at_the_deadline() -> None:
    transport = httpx2.MockTransport(Seen(httpx2.Response(200, stream=Endless(3600))))
    service = WebService("https://d.test", Words(()), transport=transport, deadline=0.05)
    with pytest.raises(ChallengeFailed, match=r"^it: no answer within 0\.05 s$"):
        await service.post("it", "/x", {})


async def test_acme_dns_updates_the_accounts_record() -> None:
    seen = Seen()
    provider = acme_dns(seen, fulldomain=f"{OWN}.auth.example.org")
    await provider.add(f"{OWN}.auth.example.org", VALUE)
    await provider.remove(f"{OWN}.auth.example.org", VALUE)
    (request,) = seen.requests
    assert (request.method, str(request.url)) == ("POST", "https://d.test/update")
    assert (request.headers["x-api-user"], request.headers["x-api-key"]) == ("the-user", PASSWORD)
    assert json.loads(request.content) == {"subdomain": OWN, "txt": VALUE}


@pytest.mark.parametrize(
    ("record", "options", "target"),
    [
        (RECORD, {}, f"{OWN}.<domain of the server>"),
        (RECORD, {"fulldomain": f"{OWN}.auth.example.org"}, f"{OWN}.auth.example.org"),
        (f"{OWN}.other.example.org", {"fulldomain": f"{OWN}.auth.example.org."}, f"{OWN}.auth.example.org"),
    ],
)
async def test_acme_dns_refuses_records_of_others(record: str, options: dict[str, str], target: str) -> None:
    seen = Seen()
    with pytest.raises(ChallengeFailed) as raised:
        await acme_dns(seen, **options).add(record, VALUE)
    assert str(raised.value) == f"acme-dns: {record} is not this account's record; make it a CNAME of {target}"
    assert seen.requests == []


async def test_acme_dns_tells_what_the_server_said() -> None:
    with pytest.raises(ChallengeFailed, match=r'HTTP 401: \{"error": "forbidden"\}$'):
        await acme_dns(Seen(httpx2.Response(401, text='{"error": "forbidden"}'))).add(f"{OWN}.d.test", VALUE)


def test_words_are_short_and_in_one_line() -> None:
    assert Words(()).clean("a\r\n\x1b[31m b") == "a [31m b"
    assert len(Words(()).clean("ab " * 100_000)) == MAX_WORDS


def test_words_spare_what_is_no_secret() -> None:
    text = "zone sub.example.com: quota of 100 records, see 2001:db8::1 (error-code-of-the-provider)"
    assert Words(("abc", "", "x")).clean(text) == text


@pytest.mark.parametrize("form", ["a b&c", "a%20b%26c", "a+b%26c", "YSBiJmM="])
def test_words_hide_secrets_in_each_form(form: str) -> None:
    assert Words(("a b&c",)).clean(f"key {form}!") == "key <hidden>!"
