"""Ways in which the road to a CA goes wrong, for tests/support/fault_proxy.py."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus

from tests.support.fault_proxy import Answer, Exchange, Fault

REFUSED_FOR = 1.0
"""Seconds."""


async def refused(exchange: Exchange) -> None:
    """The listener closes, with all connections; others' requests are cut, too."""
    await exchange.proxy.refuse(REFUSED_FOR)


async def closed(exchange: Exchange) -> None:
    """Accepted, read, and closed without a word; the CA saw nothing."""


async def lost(exchange: Exchange) -> None:
    """The CA did what was asked; its answer goes astray."""
    await exchange.forward()


async def torn(exchange: Exchange) -> None:
    """An RST in the middle of the body."""
    whole = (await exchange.forward()).encode()
    await exchange.send_bytes(whole[: -len(whole) // 4])
    await asyncio.sleep(0.05)  # or the RST overtakes what came before it
    exchange.reset()


async def cut_short(exchange: Exchange) -> None:
    """All but a quarter of the body, as if it were whole: truncated JSON, or a chain cut in its last certificate."""
    answer = await exchange.forward()
    await exchange.send(answer.but(body=answer.body[: len(answer.body) * 3 // 4]))


async def dripping(exchange: Exchange) -> None:
    """A byte a second, for ever."""
    answer = await exchange.forward()
    await exchange.send_bytes(answer.but(content_length="100000").encode())
    while True:
        await asyncio.sleep(1)
        await exchange.send_bytes(b" ")


async def doubled(exchange: Exchange) -> None:
    """The same answer twice on a connection that stays open: the second could pass for the next request's."""
    answer = await exchange.forward()
    await exchange.send_bytes(answer.encode())
    await exchange.send(answer)
    exchange.spoilt = True


async def mistyped(exchange: Exchange) -> None:
    """A content type that isn't the body's."""
    await exchange.send((await exchange.forward()).but(content_type="application/octet-stream"))


async def nonceless(exchange: Exchange) -> None:
    """No Replay-Nonce."""
    await exchange.send((await exchange.forward()).but(replay_nonce=None))


async def stale_nonce(exchange: Exchange) -> None:
    """A nonce that the CA doesn't know, or not any more; never the same, which is how repeated answers are told."""
    await exchange.send((await exchange.forward()).but(replay_nonce=secrets.token_urlsafe(16)))


async def captive(exchange: Exchange) -> None:
    """A portal's page with status 200, and the CA saw nothing."""
    await exchange.send(Answer(HTTPStatus.OK, (("content-type", "text/html"),), b"<html><h1>Welcome!</h1></html>"))


async def captive_after(exchange: Exchange) -> None:
    """As above, though the CA did what was asked."""
    await exchange.forward()
    await captive(exchange)


async def redirected(exchange: Exchange) -> None:
    """Sent elsewhere."""
    elsewhere = (("location", f"https://127.0.0.1:{exchange.proxy.port}/elsewhere"),)
    await exchange.send(Answer(HTTPStatus.FOUND, elsewhere, b""))


async def endless(exchange: Exchange) -> None:
    """5 MB of body."""
    await exchange.forward()
    await exchange.send(Answer(HTTPStatus.OK, (("content-type", "application/json"),), b" " * 5_000_000))


async def long_problem(exchange: Exchange) -> None:
    """A problem document of 200 kB."""
    problem = {"type": "urn:ietf:params:acme:error:serverInternal", "detail": "oh " * 70_000}
    await exchange.send(
        Answer(
            HTTPStatus.INTERNAL_SERVER_ERROR,
            (("content-type", "application/problem+json"),),
            json.dumps(problem).encode(),
        )
    )


def status(code: HTTPStatus, retry_after: Callable[[], str] | None = None) -> Fault:
    """An error from something before the CA, in HTML, with a Retry-After header where one is given."""

    async def fault(exchange: Exchange) -> None:
        headers = [("content-type", "text/html")]
        if retry_after is not None:
            headers.append(("retry-after", retry_after()))
        await exchange.send(Answer(code, tuple(headers), b"<html><h1>Sorry</h1></html>"))

    fault.__name__ = f"status_{code.value}" + ("_retry_after" if retry_after else "")
    return fault


def rate_limited(seconds: int) -> Fault:
    """The CA's own 429."""

    async def fault(exchange: Exchange) -> None:
        problem = {"type": "urn:ietf:params:acme:error:rateLimited", "detail": "too many"}
        headers = (("content-type", "application/problem+json"), ("retry-after", str(seconds)))
        await exchange.send(Answer(HTTPStatus.TOO_MANY_REQUESTS, headers, json.dumps(problem).encode()))

    fault.__name__ = "rate_limited"
    return fault


def tripwire(callback: Callable[[], None], *, forwarding: bool, answering: bool = False) -> Fault:
    """Call back, from a thread, before or after the CA saw the request; then give its answer, or have it go astray."""

    async def fault(exchange: Exchange) -> None:
        answer = await exchange.forward() if forwarding else None
        await asyncio.to_thread(callback)
        if answering and answer is not None:
            await exchange.send(answer)

    fault.__name__ = "tripwire"
    return fault


def _in_seconds() -> str:
    return "1"


def _at_a_date() -> str:
    return formatdate(time.time() + 2, usegmt=True)


PROMPT: tuple[Fault, ...] = (
    closed,
    lost,
    torn,
    cut_short,
    mistyped,
    nonceless,
    stale_nonce,
    captive,
    captive_after,
    redirected,
    endless,
    long_problem,
    rate_limited(1),
    status(HTTPStatus.INTERNAL_SERVER_ERROR),
    status(HTTPStatus.BAD_GATEWAY),
    status(HTTPStatus.SERVICE_UNAVAILABLE, _in_seconds),
    status(HTTPStatus.BAD_GATEWAY, _at_a_date),
)
"""What hits one request alone and takes little time."""
