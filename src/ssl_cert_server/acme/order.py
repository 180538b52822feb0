"""Driving an order from nothing to a certificate (RFC 8555 section 7.4)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TypeVar

import structlog

from ssl_cert_server.acme.authorize import ChallengeChoice, authorize
from ssl_cert_server.acme.messages import Order, OrderStatus
from ssl_cert_server.acme.polling import FIRST_DELAY, poll
from ssl_cert_server.acme.retry import is_transient, jittered
from ssl_cert_server.acme.session import AcmeSession
from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import AcmeError, CaProblem, MalformedResponse, OrderFailed

_MAX_STEPS = 10
"""A straight order takes four; more than these and the CA is going round in circles."""

_GRACE = 5.0
"""Seconds that a cancellation leaves an order to be placed and stored."""

_T = TypeVar("_T")
_log = structlog.get_logger()


async def obtain(
    session: AcmeSession,
    names: Sequence[str],
    csr_der: bytes,
    choice: ChallengeChoice,
    clock: Clock,
    *,
    order_url: str | None = None,
    before_order: Callable[[], Awaitable[None]] | None = None,
    before_send: Callable[[], None] | None = None,
    on_order: Callable[[str], Awaitable[None]] | None = None,
    profile: str | None = None,
    replaces: str | None = None,
    preferred_chain: str | None = None,
) -> bytes:
    """Get a certificate; the result is its chain in PEM, leaf first.

    ``before_order`` is awaited before a new order is placed, and ``before_send`` is called right before the request for
    it is sent, each time: by then a nonce may have been fetched, or a retry waited for. ``on_order`` is awaited with
    the new order's URL before anything is done for it: whoever stores the URL and the CSR's key can resume the order by
    ``order_url``, in whatever state it is. A resumed order that was finalized before gives the certificate of *that*
    CSR. ``profile`` and ``replaces`` are for new orders (see AcmeSession.new_order), ``preferred_chain`` is for the
    download (see AcmeSession.certificate).

    Takes as long as the CA does: callers set a deadline. Cancelling it at any point takes back the challenge answers;
    while an order is placed, the cancellation takes effect once ``on_order`` is done, or after a few seconds.

    :raises ValidationFailed: the CA did not find the answer to a challenge, and the order is invalid.
    :raises OrderFailed: the order is invalid, and resuming it is of no use.
    :raises AcmeError: all else; the order may be resumed, after ``retry_after`` where it is set. A 404 on an
        ``order_url`` means that the CA forgot the order.
    """
    if order_url is not None:
        order = await session.order(order_url)
    else:

        async def place() -> Order:
            if before_order is not None:
                await before_order()
            placed = await session.new_order(names, profile=profile, replaces=replaces, before_send=before_send)
            if on_order is not None:
                await on_order(placed.url)
            return placed

        order = await _uninterrupted(place(), clock)
        _log.info("acme.order.created", names=list(names), order=order.url)
    for _ in range(_MAX_STEPS):
        match order.status:
            case OrderStatus.PENDING:
                order = await _authorize(session, order, choice, clock)
            case OrderStatus.READY:
                order = await _finalize(session, order, csr_der, clock)
            case OrderStatus.PROCESSING:
                order = await _leave(session, order, clock)
            case OrderStatus.VALID:
                return await _download(session, order, preferred_chain)
            case OrderStatus.INVALID:
                raise _failure(order, names)
    raise AcmeError(f"order for {_summary(names)}: still {order.status} after {_MAX_STEPS} steps")


async def _uninterrupted(step: Coroutine[object, object, _T], clock: Clock) -> _T:
    """Do a step that should not be cut in two: a cancellation waits until it is done, for a few seconds at most."""
    task = asyncio.create_task(step)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        patience = asyncio.create_task(clock.sleep(_GRACE))
        try:
            await asyncio.wait((task, patience), return_when=asyncio.FIRST_COMPLETED)
        finally:
            task.cancel()
            patience.cancel()
            await asyncio.gather(task, patience, return_exceptions=True)
        raise


async def _authorize(session: AcmeSession, order: Order, choice: ChallengeChoice, clock: Clock) -> Order:
    await authorize(session, order, choice, clock)
    order = await session.order(order.url)
    return await _leave(session, order, clock) if order.status is OrderStatus.PENDING else order


async def _leave(session: AcmeSession, order: Order, clock: Clock) -> Order:
    """Wait until the CA takes the order out of its state."""
    return await poll(
        lambda: session.order(order.url),
        done=lambda current: current.status is not order.status,
        clock=clock,
        what="order",
        retry_after=order.retry_after,
    )


async def _finalize(session: AcmeSession, order: Order, csr_der: bytes, clock: Clock) -> Order:
    try:
        return await session.finalize(order, csr_der)
    except AcmeError as error:
        not_ready = isinstance(error, CaProblem) and error.type == "orderNotReady"
        if not (not_ready or is_transient(error)):
            raise
        # The CSR may have arrived all the same; the order itself tells what comes next.
        _log.warning("acme.order.finalize_unclear", order=order.url, reason=str(error))
        await clock.sleep(max(jittered(FIRST_DELAY, clock), error.retry_after or 0.0))
    return await session.order(order.url)


async def _download(session: AcmeSession, order: Order, preferred_chain: str | None) -> bytes:
    if order.certificate is None:
        raise MalformedResponse("order: it is valid but has no certificate")
    return await session.certificate(order.certificate, preferred_chain=preferred_chain)


def _failure(order: Order, names: Sequence[str]) -> OrderFailed:
    words = order.error.describe() if order.error else "the CA gave no reason"
    return OrderFailed(f"{_summary(names)}: order is invalid: {words}")


def _summary(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
