"""One exchange: bounded in time and size, and no foreign exception comes out."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from ssl_cert_server import __version__
from ssl_cert_server.acme import transport
from ssl_cert_server.acme.nonces import SeenNonces
from ssl_cert_server.acme.transport import MAX_BODY, Answer, exchange, open_http_client
from ssl_cert_server.errors import AnswerRepeated, CaUnreachable, MalformedResponse, StartError
from tests.support.fake_ca import Cut

URL = "https://ca.test/x"


class Endless(httpx2.AsyncByteStream):
    def __init__(self, delay: float) -> None:
        self.sent = 0
        self._delay = delay

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(self._delay)
            self.sent += 65536
            yield bytes(65536)


async def ask(answer: httpx2.Response | Exception, url: str = URL, now: float = 0.0) -> Answer:
    def handle(request: httpx2.Request) -> httpx2.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(handle)) as http:
        return await exchange(http, "GET", url, now=now)


async def test_answer_with_all_its_headers() -> None:
    headers = [("Location", "https://ca.test/l"), ("Replay-Nonce", "abc-_1"), ("Retry-After", "5")]
    headers += [("Link", "</a/1>;rel=alternate"), ("Link", '<https://b.test/2>;rel="alternate"')]
    answer = await ask(httpx2.Response(404, content=b"body", headers=headers))
    assert answer == Answer(
        status=404,
        location="https://ca.test/l",
        nonce="abc-_1",
        retry_after=5.0,
        alternates=("https://ca.test/a/1", "https://b.test/2"),
        body=b"body",
    )


async def test_retry_after_as_a_date_counts_from_now() -> None:
    headers = {"Retry-After": "Sun, 06 Nov 1994 08:50:37 GMT"}
    assert (await ask(httpx2.Response(200, headers=headers), now=784_111_777)).retry_after == 60


@pytest.mark.parametrize("nonce", ["", "a b", "a=", "n" * 2000])
async def test_nonces_of_another_form_are_ignored(nonce: str) -> None:
    assert (await ask(httpx2.Response(200, headers={"Replay-Nonce": nonce}))).nonce is None


async def test_says_who_we_are() -> None:
    seen: list[httpx2.Request] = []

    def handle(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(200)

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(handle)) as http:
        await exchange(http, "GET", URL, now=0)
    assert seen[0].headers["user-agent"] == f"ssl-cert-server/{__version__}"


@pytest.mark.parametrize(
    "error",
    [
        httpx2.ConnectError("refused"),
        httpx2.ConnectTimeout("slow"),
        httpx2.ReadTimeout("slow"),
        httpx2.ReadError("reset"),
        httpx2.RemoteProtocolError("what"),
        httpx2.PoolTimeout("full"),
        httpx2.ProxyError("no"),
        httpx2.DecodingError("no"),
        ConnectionResetError("reset"),
        TimeoutError(),
    ],
)
async def test_failures_are_translated_and_say_where(error: Exception) -> None:
    with pytest.raises(CaUnreachable, match=r"GET https://ca\.test/x: ") as caught:
        await ask(error)
    assert caught.value.__cause__ is error


async def test_body_that_breaks_off() -> None:
    with pytest.raises(CaUnreachable, match="RemoteProtocolError"):
        await ask(httpx2.Response(200, stream=Cut(b'{"sta')))


@pytest.mark.parametrize("url", ["https://ca.test:99999/", "https://[::1/", "foo", "ftp://ca.test/", "https://\x00/"])
async def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(CaUnreachable):
        async with httpx2.AsyncClient() as http:
            await exchange(http, "GET", url, now=0)


@pytest.mark.parametrize("status", [301, 302, 307, 308, 304])
async def test_redirects_are_not_followed(status: int) -> None:
    with pytest.raises(MalformedResponse, match=rf"GET https://ca\.test/x: status {status}"):
        await ask(httpx2.Response(status, headers={"Location": "https://elsewhere.test/"}))


async def test_long_bodies_are_cut_off_while_they_come() -> None:
    stream = Endless(0)
    with pytest.raises(MalformedResponse, match="longer than"):
        await ask(httpx2.Response(200, stream=stream))
    assert stream.sent <= MAX_BODY + 65536


async def test_a_body_of_just_the_limit_is_read() -> None:
    assert len((await ask(httpx2.Response(200, content=bytes(MAX_BODY)))).body) == MAX_BODY


async def test_compressed_answers_are_refused() -> None:
    response = httpx2.Response(
        200, stream=httpx2.ByteStream(gzip.compress(bytes(10_000))), headers={"Content-Encoding": "gzip"}
    )
    with pytest.raises(MalformedResponse, match="compressed"):
        await ask(response)


async def test_a_server_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "REQUEST_DEADLINE", 0.05)
    stream = Endless(0.02)
    with pytest.raises(CaUnreachable, match=r"no answer within 0\.05 s"):
        await ask(httpx2.Response(200, stream=stream))


async def test_messages_stay_on_one_line() -> None:
    with pytest.raises(CaUnreachable) as caught:
        await ask(httpx2.ReadError("one\ntwo" + "x" * 5000))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


async def test_client_with_a_bundle_trusts_it_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing.pem"))
    bundle = tmp_path / "root.pem"
    bundle.write_text("nothing")
    with pytest.raises(StartError, match=r"root\.pem"):
        open_http_client(bundle)
    with pytest.raises(StartError, match="No such file"):
        open_http_client(tmp_path / "missing.pem")


async def test_client_without_a_bundle_opens() -> None:
    async with open_http_client() as http:
        assert http.timeout.read == transport.REQUEST_DEADLINE
        assert not http.follow_redirects


async def test_an_answer_whose_nonce_was_seen_is_not_read() -> None:
    seen = SeenNonces()

    def handle(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"Replay-Nonce": "same"}, content=b"{}")

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(handle)) as http:
        assert (await exchange(http, "POST", URL, now=0, seen=seen)).nonce == "same"
        with pytest.raises(AnswerRepeated, match="the answer to an earlier request came again"):
            await exchange(http, "POST", URL, now=0, seen=seen)
        assert (await exchange(http, "GET", URL, now=0)).nonce == "same"


def test_seen_nonces_are_bounded() -> None:
    seen = SeenNonces()
    assert all(seen.add(str(number)) for number in range(10_000))
    assert not seen.add("9999")
    assert seen.add("0"), "long forgotten"
