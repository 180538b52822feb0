"""Proving control of the names of an order (RFC 8555 sections 7.5 and 8)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import structlog

from ssl_cert_server.acme.choose import ChallengeChoice, ChallengeSolver, choose, failure
from ssl_cert_server.acme.messages import Authorization, AuthorizationStatus, Order, Problem
from ssl_cert_server.acme.polling import poll
from ssl_cert_server.acme.session import AcmeSession
from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import CaProblem, CertServerError, MalformedResponse

__all__ = ["ChallengeChoice", "ChallengeSolver", "authorize"]

_ANSWERS = 3
"""Times that a challenge is answered, where what comes back says nothing."""

CLEANUP_DEADLINE = 10.0
"""Seconds for taking back an order's challenge answers; what is left after that is harmless, only untidy."""

_T = TypeVar("_T")
_R = TypeVar("_R")
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Task:
    """A pending authorization, and the challenge chosen for it with its solver; ``error`` is from an earlier try."""

    authorization_url: str
    name: str
    challenge_url: str
    token: str = field(repr=False)
    answered: bool
    solver: ChallengeSolver
    error: Problem | None


async def authorize(session: AcmeSession, order: Order, choice: ChallengeChoice, clock: Clock) -> None:
    """Bring every authorization of the order to ``valid``; those that are already (reused ones) cost one request.

    Everything is presented before anything is answered: answers in DNS share a name and have to spread first.

    :raises ValidationFailed: the CA did not find an answer; the message holds its words.
    :raises OrderFailed: an authorization is over, or has no challenge that ``choice`` could solve.
    """
    found = await _all(order.authorizations, lambda url: _task(session, url, choice))
    tasks = [task for task in found if task is not None]
    begun: list[_Task] = []

    async def present(task: _Task) -> None:
        begun.append(task)
        await task.solver.present(task.name, task.token, session.key_authorization(task.token))

    try:
        await _all(tasks, present)
        await _all(tasks, lambda task: _validate(session, task, clock))
    finally:
        await _to_its_end(_clean_up(begun))


async def _task(session: AcmeSession, url: str, choice: ChallengeChoice) -> _Task | None:
    authorization = await session.authorization(url)
    if authorization.status is AuthorizationStatus.VALID:
        return None
    solvers = choice(authorization.name)
    if authorization.status is not AuthorizationStatus.PENDING:
        raise failure(authorization, [solver.type for solver in solvers])
    challenge, solver = choose(authorization, solvers)
    if challenge.url is None or challenge.token is None:
        raise MalformedResponse(f"authorization of {authorization.name}: {challenge.type} has no url or token")
    # A challenge that was answered before a restart is validated already; answering twice is an error.
    answered = challenge.status != "pending"
    value = authorization.identifier.value
    return _Task(url, value, challenge.url, challenge.token, answered, solver, challenge.error)


async def _validate(session: AcmeSession, task: _Task, clock: Clock) -> None:
    if not task.answered:
        await _answer(session, task)
    authorization = await poll(
        lambda: session.authorization(task.authorization_url),
        done=lambda current: current.status is not AuthorizationStatus.PENDING or _given_up(current, task),
        clock=clock,
        what=f"authorization of {task.name}",
    )
    if authorization.status is not AuthorizationStatus.VALID:
        raise failure(authorization, [task.solver.type])


def _given_up(authorization: Authorization, task: _Task) -> bool:
    """Tell whether the CA looked and won't by itself look again: some leave all as pending, with what they met."""
    challenge = next((found for found in authorization.challenges if found.url == task.challenge_url), None)
    if challenge is None or challenge.status != "pending" or challenge.error is None:
        return False
    # What stood there before we answered says nothing of this time.
    return challenge.error != task.error


async def _answer(session: AcmeSession, task: _Task) -> None:
    for left in range(_ANSWERS - 1, -1, -1):
        try:
            await session.answer(task.challenge_url)
            return
        except (CaProblem, MalformedResponse) as error:
            # An answer that was received though the connection broke is refused when it is sent again, and what came
            # back may not be the CA's. The authorization tells what became of it.
            if isinstance(error, CaProblem) and error.type not in ("malformed", "about:blank"):
                raise
            authorization = await session.authorization(task.authorization_url)
            statuses = {challenge.url: challenge.status for challenge in authorization.challenges}
            if authorization.status is not AuthorizationStatus.PENDING or statuses.get(task.challenge_url) != "pending":
                return
            if not left or (isinstance(error, CaProblem) and error.type == "malformed"):
                raise


async def _clean_up(tasks: Sequence[_Task]) -> None:
    async def clean_up(task: _Task) -> None:
        try:
            await task.solver.cleanup(task.name, task.token)
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
