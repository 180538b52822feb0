from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx2
import pytest
from structlog.testing import capture_logs

from ssl_cert_server.errors import AskFailed, Unavailable
from ssl_cert_server.service import ask as module
from ssl_cert_server.service.ask import MAX_BODY, SIDE_BY_SIDE, Ask
from tests.support.clock import ManualClock
from tests.support.loop_time import LoopTime, settle

URL = "http://user:secret@ask.test/allowed?key=hidden"


class Endpoint:
    """What stands behind the URL: ``answer`` is a status, a response or an exception; ``names`` are those asked."""

    def __init__(self) -> None:
        self.answer: int | httpx2.Response | Exception = 200
        self.requests: list[httpx2.Request] = []
        self.open = asyncio.Event()
        self.open.set()

    @property
    def names(self) -> list[str]:
        return [request.url.params["domain"] for request in self.requests]

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        await self.open.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer if isinstance(self.answer, httpx2.Response) else httpx2.Response(self.answer)


class Drip(httpx2.AsyncByteStream):
    """A body that goes on until it is left; ``closed`` tells that it was."""

    def __init__(self, chunk: int = 1024, error: Exception | None = None) -> None:
        self.sent = 0
        self.closed = False
        self._chunk = chunk
        self._error = error

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0)
            self.sent += self._chunk
            yield bytes(self._chunk)
            if self._error:
                raise self._error

    async def aclose(self) -> None:
        self.closed = True


Make = Callable[..., Ask]


@pytest.fixture
async def endpoint() -> Endpoint:
    return Endpoint()


@pytest.fixture
async def make(clock: ManualClock, endpoint: Endpoint) -> AsyncIterator[Make]:
    clock.chance = 0.0
    async with AsyncExitStack() as stack:

        def make(**options: Any) -> Ask:
            ask = Ask(http, clock, **{"url": URL, **options})
            stack.push_async_callback(ask.close)
            return ask

        http = await stack.enter_async_context(httpx2.AsyncClient(transport=httpx2.MockTransport(endpoint)))
        yield make


@pytest.fixture
def ask(make: Make) -> Ask:
    return make()


@asynccontextmanager
async def held(endpoint: Endpoint) -> AsyncIterator[None]:
    """Let nothing be answered within the block."""
    endpoint.open.clear()
    yield
    endpoint.open.set()


@pytest.mark.parametrize(
    ("status", "permitted"),
    [(200, True), (204, True), (299, True), (400, False), (401, False), (404, False), (499, False)],
)
async def test_any_2xx_permits_and_4xx_refuses(ask: Ask, endpoint: Endpoint, status: int, permitted: bool) -> None:
    endpoint.answer = status
    assert await ask.permitted("a.com") is permitted
    assert await ask.permitted("a.com") is permitted
    assert endpoint.names == ["a.com"]


@pytest.mark.parametrize("status", [301, 302, 303, 304, 307, 308])
async def test_redirects_refuse_and_are_not_followed(
    ask: Ask, clock: ManualClock, endpoint: Endpoint, status: int, logs: list[Any]
) -> None:
    endpoint.answer = httpx2.Response(status, headers={"Location": "http://elsewhere.test/?token=abc"})
    for name in ("a.com", "a.com", "b.com"):
        assert not await ask.permitted(name)
    assert endpoint.names == ["a.com", "b.com"]
    assert [(log["event"], log["name"]) for log in logs] == [("ask.odd_answer", "a.com")]
    assert f"status {status} refuses it: redirects are not followed, ask.url" in logs[0]["reason"]
    assert "abc" not in str(logs)
    await clock.advance(60)
    assert not await ask.permitted("c.com")
    assert [log["name"] for log in logs] == ["a.com", "c.com"]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 599])
async def test_other_answers_are_no_verdict(ask: Ask, endpoint: Endpoint, status: int) -> None:
    endpoint.answer = status
    with pytest.raises(AskFailed, match=rf"a\.com: .*status {status}") as caught:
        await ask.permitted("a.com")
    assert caught.value.retry_after >= 1


@pytest.mark.parametrize(
    "error",
    [
        httpx2.ConnectError("refused"),
        httpx2.ReadError("reset"),
        httpx2.RemoteProtocolError("what"),
        httpx2.PoolTimeout("full"),
        ConnectionResetError("reset"),
        TimeoutError(),
    ],
)
async def test_failures_are_translated(ask: Ask, endpoint: Endpoint, error: Exception) -> None:
    endpoint.answer = error
    with pytest.raises(AskFailed, match=r"a\.com: the endpoint of ask gave no verdict: .+") as caught:
        await ask.permitted("a.com")
    assert caught.value.__cause__ is error
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("url", "name", "query"),
    [
        ("http://ask.test/x", "a.com", "domain=a.com"),
        ("http://ask.test/x?", "a.com", "domain=a.com"),
        ("http://ask.test/x?a&b=%20c&domain=z#f", "a.com", "a&b=%20c&domain=z&domain=a.com"),
        ("http://ask.test/x", "*.a.com", "domain=%2A.a.com"),
        ("https://ask.test/x", "2001:db8::1", "domain=2001%3Adb8%3A%3A1"),
    ],
)
async def test_the_name_is_added_to_the_query(make: Make, endpoint: Endpoint, url: str, name: str, query: str) -> None:
    assert await make(url=url).permitted(name)
    (request,) = endpoint.requests
    assert request.method == "GET"
    assert request.url.query.decode() == query
    assert request.url.path == "/x"


async def test_the_urls_user_and_password_are_sent_and_never_shown(ask: Ask, endpoint: Endpoint) -> None:
    endpoint.answer = httpx2.ConnectError("refused")
    with capture_logs() as logs, pytest.raises(AskFailed) as caught:
        await ask.permitted("a.com")
    assert endpoint.requests[0].headers["authorization"].startswith("Basic ")
    for secret in ("secret", "hidden"):
        assert secret not in str(caught.value) + str(logs)


async def test_an_endpoint_that_does_not_answer_is_given_up(make: Make, endpoint: Endpoint) -> None:
    time, ask = LoopTime(), make(timeout=3)
    async with held(endpoint):
        asking = asyncio.create_task(ask.permitted("a.com"))
        await settle()
        await time.advance(2.9)
        assert not asking.done()
        await time.advance(0.2)
        with pytest.raises(AskFailed, match="no answer within 3 s"):
            await asking


async def test_a_long_body_is_left(ask: Ask, endpoint: Endpoint) -> None:
    body = Drip()
    endpoint.answer = httpx2.Response(200, stream=body)
    assert await ask.permitted("a.com")
    assert MAX_BODY < body.sent <= MAX_BODY + 1024
    assert body.closed


async def test_a_body_that_never_ends_or_breaks_off_changes_no_verdict(make: Make, endpoint: Endpoint) -> None:
    time, ask = LoopTime(), make()
    body = Drip(chunk=0)
    endpoint.answer = httpx2.Response(200, stream=body)
    asking = asyncio.create_task(ask.permitted("a.com"))
    await settle()
    assert not asking.done()
    await time.advance(2.1)
    assert await asking
    assert body.closed
    endpoint.answer = httpx2.Response(403, stream=Drip(error=httpx2.ReadError("reset")))
    assert not await ask.permitted("b.com")


# --- what is remembered


async def test_verdicts_are_kept_for_their_ttl(ask: Ask, clock: ManualClock, endpoint: Endpoint) -> None:
    await ask.permitted("yes.com")
    endpoint.answer = 404
    await ask.permitted("no.com")
    await clock.advance(299)
    assert not await ask.permitted("no.com")
    assert endpoint.names == ["yes.com", "no.com"]
    await clock.advance(1)
    endpoint.answer = 200
    assert await ask.permitted("no.com")
    await clock.advance(3299)
    endpoint.answer = 404
    assert await ask.permitted("yes.com")
    await clock.advance(1)
    assert not await ask.permitted("yes.com")
    assert endpoint.names == ["yes.com", "no.com", "no.com", "yes.com"]


async def test_the_ttl_is_spread(make: Make, clock: ManualClock, endpoint: Endpoint) -> None:
    ask = make(allowed_ttl=100)
    clock.chance = 0.5
    await ask.permitted("a.com")
    await clock.advance(94.9)
    await ask.permitted("a.com")
    assert len(endpoint.requests) == 1
    await clock.advance(0.2)
    await ask.permitted("a.com")
    assert len(endpoint.requests) == 2


async def test_fresh_asks_again_about_a_yes_but_not_about_a_no(ask: Ask, endpoint: Endpoint) -> None:
    assert await ask.permitted("a.com")
    assert await ask.permitted("a.com", fresh=True)
    endpoint.answer = 404
    assert not await ask.permitted("a.com", fresh=True)
    assert len(endpoint.requests) == 3
    endpoint.answer = 200
    assert not await ask.permitted("a.com", fresh=True)
    assert not await ask.permitted("a.com")
    assert len(endpoint.requests) == 3


async def test_a_failed_fresh_question_leaves_the_earlier_yes(ask: Ask, endpoint: Endpoint) -> None:
    assert await ask.permitted("a.com")
    endpoint.answer = 500
    with pytest.raises(AskFailed):
        await ask.permitted("a.com", fresh=True)
    assert await ask.permitted("a.com")


async def test_a_flood_of_refused_names_pushes_out_no_permitted_one(
    make: Make, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_VERDICTS", 10)
    ask = make()
    assert await ask.permitted("a.com")
    endpoint.answer = 404
    for number in range(30):
        assert not await ask.permitted(f"{number}.com")
    asked = len(endpoint.requests)
    assert await ask.permitted("a.com")
    assert not await ask.permitted("29.com")
    assert len(endpoint.requests) == asked
    await ask.permitted("0.com")
    assert len(endpoint.requests) == asked + 1


# --- side by side


async def test_a_hundred_who_ask_at_once_ask_once(ask: Ask, endpoint: Endpoint) -> None:
    async with held(endpoint):
        asking = [asyncio.create_task(ask.permitted("a.com", fresh=bool(number % 2))) for number in range(100)]
        await settle()
        assert endpoint.names == ["a.com"]
    assert await asyncio.gather(*asking) == [True] * 100
    assert endpoint.names == ["a.com"]


async def test_one_who_leaves_cancels_nothing(ask: Ask, endpoint: Endpoint) -> None:
    async with held(endpoint):
        leaving, staying = (asyncio.create_task(ask.permitted("a.com")) for _ in range(2))
        await settle()
        leaving.cancel()
        await settle()
    assert await staying


async def test_questions_side_by_side_are_bounded(ask: Ask, endpoint: Endpoint) -> None:
    async with held(endpoint):
        asking = [asyncio.create_task(ask.permitted(f"{number}.com")) for number in range(SIDE_BY_SIDE)]
        await settle()
        with pytest.raises(AskFailed, match=f"one-more.com: {SIDE_BY_SIDE} questions wait") as caught:
            await ask.permitted("one-more.com")
        assert caught.value.retry_after >= 1
        joining = asyncio.create_task(ask.permitted("0.com"))
        await settle()
    assert all(await asyncio.gather(joining, *asking))
    assert await ask.permitted("one-more.com")


async def test_close_ends_the_wait(ask: Ask, endpoint: Endpoint) -> None:
    async with held(endpoint):
        asking = asyncio.create_task(ask.permitted("a.com"))
        await settle()
        await ask.close()
        with pytest.raises(Unavailable, match="stopping"):
            await asking


# --- an endpoint that fails


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    with capture_logs() as logs:
        yield logs


async def _fail(ask: Ask, *names: str) -> list[float]:
    """Give the retry_after of each."""
    after = []
    for name in names:
        with pytest.raises(AskFailed) as caught:
            await ask.permitted(name)
        after.append(caught.value.retry_after)
    return after


async def test_an_endpoint_that_is_gone_is_left_alone_and_probed(
    ask: Ask, clock: ManualClock, endpoint: Endpoint, logs: list[Any]
) -> None:
    endpoint.answer = httpx2.ConnectError("refused")
    assert await _fail(ask, "a.com", "b.com", "a.com") == [1, 1, 1]
    assert endpoint.names == ["a.com"]
    await clock.advance(1)
    assert await _fail(ask, "b.com", "c.com") == [2, 2]
    assert endpoint.names == ["a.com", "b.com"]
    await clock.advance(2)
    endpoint.answer = 200
    async with held(endpoint):
        probe = asyncio.create_task(ask.permitted("c.com"))
        await settle()
        assert await _fail(ask, "d.com") == [2]
        assert endpoint.names == ["a.com", "b.com", "c.com"]
    assert await probe
    assert await ask.permitted("d.com")
    assert [(log["event"], log["log_level"]) for log in logs] == [("ask.failed", "error"), ("ask.recovered", "info")]
    assert "refused" in logs[0]["reason"]


async def test_known_verdicts_outlive_the_endpoint(ask: Ask, endpoint: Endpoint) -> None:
    assert await ask.permitted("a.com")
    endpoint.answer = httpx2.ConnectError("refused")
    await _fail(ask, "b.com")
    assert await ask.permitted("a.com")


async def test_all_that_fail_together_are_one_failure(ask: Ask, endpoint: Endpoint, logs: list[Any]) -> None:
    endpoint.answer = httpx2.ConnectError("refused")
    async with held(endpoint):
        asking = [asyncio.create_task(ask.permitted(f"{number}.com")) for number in range(SIDE_BY_SIDE)]
        await settle()
    outcomes = await asyncio.gather(*asking, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {AskFailed}
    assert await _fail(ask, "later.com") == [1]
    assert [log["event"] for log in logs] == ["ask.failed"]


async def test_names_that_the_endpoint_stumbles_over_hold_up_no_other(
    ask: Ask, clock: ManualClock, endpoint: Endpoint, logs: list[Any]
) -> None:
    for number in range(10):
        endpoint.answer = 500
        await _fail(ask, *(f"stranger{stranger}.com" for stranger in range(20)))
        endpoint.answer = 200
        assert await ask.permitted("customer.com", fresh=True)
        assert await ask.permitted(f"{number}.com")
        await clock.advance(1)
    assert endpoint.names.count("stranger0.com") == 10
    assert [log["event"] for log in logs] == ["ask.odd_answer"]
    assert logs[0]["reason"] == "status 500 is no verdict"


async def test_an_endpoint_that_answers_again_is_not_left_alone_whatever_it_says(
    ask: Ask, clock: ManualClock, endpoint: Endpoint, logs: list[Any]
) -> None:
    endpoint.answer = httpx2.ConnectError("refused")
    await _fail(ask, "a.com")
    await clock.advance(1)
    endpoint.answer = 500
    await _fail(ask, "stranger.com")
    endpoint.answer = 200
    assert await ask.permitted("customer.com")
    assert [log["event"] for log in logs] == ["ask.failed", "ask.recovered", "ask.odd_answer"]
