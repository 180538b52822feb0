"""Which challenge proves control of a name (RFC 8555 sections 7.1.4 and 8)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from ssl_cert_server.acme.messages import Authorization, AuthorizationStatus, Challenge
from ssl_cert_server.errors import OrderFailed, ValidationFailed


class ChallengeSolver(Protocol):
    """Puts a challenge's answer where the CA will look for it."""

    type: str
    """The challenge type this solves (``http-01``)."""

    async def present(self, name: str, token: str, key_authorization: str) -> None:
        """Return when the CA may look. ``name`` has no ``*.``, for wildcards either."""

    async def cleanup(self, name: str, token: str) -> None:
        """Take it back. Called after every ``present`` that was begun, also one that failed or was cancelled."""


ChallengeChoice = Callable[[str], Sequence[ChallengeSolver]]
"""What can prove control of a name, the best first; the name is as it was ordered, with its ``*.``."""


def choose(authorization: Authorization, solvers: Sequence[ChallengeSolver]) -> tuple[Challenge, ChallengeSolver]:
    """Choose a challenge that the CA offers, and who solves it; types that nobody here knows are passed over.

    :raises OrderFailed: none that we could solve.
    """
    options = [
        (challenge, solver)
        for solver in solvers
        for challenge in authorization.challenges
        if challenge.type == solver.type
    ]
    if options:
        # Of equals the first, which is the preferred one.
        return min(options, key=lambda option: _rank(option[0]))
    offered = _listed(challenge.type for challenge in authorization.challenges)
    possible = _listed(solver.type for solver in solvers)
    raise OrderFailed(
        f"{authorization.name}: the CA offers no challenge that can be answered here (it offers: {offered}; set up for "
        f"this name: {possible})"
    )


def _rank(challenge: Challenge) -> int:
    if challenge.url is None or challenge.token is None:
        return 3
    # What was answered before a restart is being validated: a second challenge would only confuse the CA.
    return {"processing": 0, "valid": 0, "pending": 1}.get(challenge.status, 2)


def failure(authorization: Authorization, types: Sequence[str]) -> OrderFailed:
    """Make the error of an authorization that isn't valid and won't be; ``types`` are those that we may have tried."""
    # Ours first: its words are about what we did.
    failed = [challenge for challenge in authorization.challenges if challenge.error or challenge.status == "invalid"]
    failed.sort(key=lambda challenge: challenge.type not in types)
    problem = failed[0].error if failed else None
    words = problem.describe() if problem else "the CA gave no reason"
    message = f"{authorization.name}: authorization is {authorization.status}: {words}"
    tried = [challenge.type for challenge in failed] or list(types)
    # Pending it is where the CA found nothing and leaves it at that.
    found_nothing = authorization.status in (AuthorizationStatus.INVALID, AuthorizationStatus.PENDING)
    if not found_nothing or not tried:
        return OrderFailed(message)
    short = problem.type if problem else "about:blank"
    return ValidationFailed(message, name=authorization.name, challenge=tried[0], problem=short)


def _listed(types: Iterable[str]) -> str:
    return ", ".join(sorted(types)) or "none"
