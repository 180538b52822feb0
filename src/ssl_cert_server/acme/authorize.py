"""Proving control of the names of an order (RFC 8555 sections 7.5 and 8)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import structlog

from ssl_cert_server.acme.messages import Authorization, AuthorizationStatus, Order
from ssl_cert_server.acme.polling import poll
from ssl_cert_server.acme.session import AcmeSession
from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import CaProblem, CertServerError, MalformedResponse, OrderFailed

CLEANUP_DEADLINE = 10.0
"""Seconds for taking back an order's challenge answers; what is left after that is harmless, only untidy."""

_T = TypeVar("_T")
_R = TypeVar("_R")
_log = structlog.get_logger()


class ChallengeSolver(Protocol):
    """Puts a challenge's answer where the CA will look for it."""

    type: str
    """The challenge type this solves (``http-01``)."""

    async def present(self, name: str, token: str, key_authorization: str) -> None:
        """Return when the CA may look. ``name`` has no ``*.``, for wildcards either."""

    async def cleanup(self, name: str, token: str) -> None:
        """Take it back. Called after every ``present`` that was begun, also one that failed or was cancelled."""


@dataclass(frozen=True, slots=True)
class _Task:
    """A pending authorization and the challenge chosen for it."""

    authorization_url: str
    name: str
    challenge_url: str
    token: str = field(repr=False)
    answered: bool


async def authorize(session: AcmeSession, order: Order, solver: ChallengeSolver, clock: Clock) -> None:
    """Bring every authorization of the order to ``valid``; those that are already (reused ones) cost one request.

    Everything is presented before anything is answered: answers in DNS share a name and have to spread first.

    :raises OrderFailed: the CA refused one; the message holds its words.
    """
    found = await _all(order.authorizations, lambda url: _task(session, url, solver.type))
    tasks = [task for task in found if task is not None]
    begun: list[_Task] = []

    async def present(task: _Task) -> None:
        begun.append(task)
        await solver.present(task.name, task.token, session.key_authorization(task.token))

    try:
        await _all(tasks, present)
        await _all(tasks, lambda task: _validate(session, task, solver.type, clock))
    finally:
        await _to_its_end(_clean_up(solver, begun))


async def _task(session: AcmeSession, url: str, challenge_type: str) -> _Task | None:
    authorization = await session.authorization(url)
    if authorization.status is AuthorizationStatus.VALID:
        return None
    if authorization.status is not AuthorizationStatus.PENDING:
        raise _failure(authorization, challenge_type)
    for challenge in authorization.challenges:
        if challenge.type != challenge_type:
            continue
        if challenge.url is None or challenge.token is None:
            raise MalformedResponse(f"authorization of {authorization.name}: {challenge_type} has no url or token")
        # A challenge that was answered before a restart is validated already; answering twice is an error.
        answered = challenge.status != "pending"
        return _Task(url, authorization.identifier.value, challenge.url, challenge.token, answered)
    offered = ", ".join(sorted(challenge.type for challenge in authorization.challenges)) or "none"
    raise OrderFailed(f"{authorization.name}: the CA offers no {challenge_type} challenge (it offers: {offered})")


async def _validate(session: AcmeSession, task: _Task, challenge_type: str, clock: Clock) -> None:
    if not task.answered:
        await _answer(session, task)
    authorization = await poll(
        lambda: session.authorization(task.authorization_url),
        done=lambda current: current.status is not AuthorizationStatus.PENDING,
        clock=clock,
        what=f"authorization of {task.name}",
    )
    if authorization.status is not AuthorizationStatus.VALID:
        raise _failure(authorization, challenge_type)


async def _answer(session: AcmeSession, task: _Task) -> None:
    try:
        await session.answer(task.challenge_url)
    except CaProblem as problem:
        # An answer that was received though the connection broke is refused when it is sent again.
        if problem.type != "malformed":
            raise
        authorization = await session.authorization(task.authorization_url)
        statuses = {challenge.url: challenge.status for challenge in authorization.challenges}
        if authorization.status is AuthorizationStatus.PENDING and statuses.get(task.challenge_url) == "pending":
            raise


def _failure(authorization: Authorization, challenge_type: str) -> OrderFailed:
    # Ours first: its words are about what we did.
    challenges = sorted(authorization.challenges, key=lambda challenge: challenge.type != challenge_type)
    words = next((challenge.error.describe() for challenge in challenges if challenge.error), "the CA gave no reason")
    return OrderFailed(f"{authorization.name}: authorization is {authorization.status}: {words}")


async def _clean_up(solver: ChallengeSolver, tasks: Sequence[_Task]) -> None:
    async def clean_up(task: _Task) -> None:
        try:
            await solver.cleanup(task.name, task.token)
        except Exception as error:  # noqa: BLE001 - one failure must not hide the order's, nor keep the others
            # Its type only: a solver's words may quote the token.
            _log.warning("acme.challenge.cleanup_failed", name=task.name, error=type(error).__name__)

    try:
        async with asyncio.timeout(CLEANUP_DEADLINE):
            await _all(tasks, clean_up)
    except TimeoutError:
        _log.warning("acme.challenge.cleanup_timeout", names=[task.name for task in tasks])


async def _to_its_end(work: Awaitable[None]) -> None:
    """Await ``work`` to its end even if we are cancelled meanwhile, and be cancelled then."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled


async def _all(items: Sequence[_T], work: Callable[[_T], Awaitable[_R]]) -> list[_R]:
    """Do the work for all items at once. The first failure cancels the rest and is raised as itself."""

    async def run(item: _T) -> _R:
        return await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(run(item)) for item in items]
    except ExceptionGroup as failures:
        first = _first(failures)
        raise first from first.__cause__
    return [task.result() for task in running]


def _first(failures: ExceptionGroup[Exception]) -> Exception:
    """The one to tell: of our own tree where there is one."""
    errors = failures.exceptions
    return next((error for error in errors if isinstance(error, CertServerError)), errors[0])
