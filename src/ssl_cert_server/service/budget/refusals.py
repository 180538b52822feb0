"""Which limit a CA means when it answers 429: pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from http import HTTPStatus

from ssl_cert_server.errors import CaProblem
from ssl_cert_server.service.budget.buckets import LONGEST_CLOSED, LimitKind, Scope

_DEFAULT_WAIT = 3_600.0
_DAY = 86_400.0
_FOREIGN_WAIT = 300.0
_FOREIGN_LONGEST = 3_600.0
"""Seconds for which a 429 is obeyed that isn't the CA's own word, but that of something before it."""

_PAUSED = "temporarily prevented from requesting certificates for"
"""What Let's Encrypt says of names that failed more than a thousand times in a row."""


def refused_scopes(problem: CaProblem, names: Sequence[str]) -> list[Scope]:
    """Give the buckets that an order for ``names`` found empty, by Let's Encrypt's words; none where they are unknown.

    The words hold the domain or name meant. Nothing that the order was not for is ever given, whatever they say.
    """
    if _is_foreign(problem):
        return [Scope(LimitKind.ACCOUNT)]
    if problem.type != "rateLimited":
        return []
    words = str(problem).lower()
    if "too many new orders" in words:
        return [Scope(LimitKind.NEW_ORDERS)]
    if "exact set of" in words:  # `domains` once, `identifiers` now
        return [Scope.exact_set(names)]
    if "too many failed authorizations" in words:
        return _quoted(Scope.failures(names), words)
    if _PAUSED in words:  # the names follow without quotes
        meant = {*re.split(r"[,\s]+", words.partition(_PAUSED)[2])}
        return [scope for scope in Scope.failures(names) if scope.subject in meant] or [*Scope.failures(names)]
    if "too many certificates" in words and "already issued for" in words:
        return _quoted(Scope.domains(names), words)
    return []


def refused_for(problem: CaProblem) -> float:
    """Give the seconds for which the CA refuses."""
    if _is_foreign(problem):
        asked = _FOREIGN_WAIT if problem.retry_after is None else problem.retry_after
        return min(max(asked, 0.0), _FOREIGN_LONGEST)
    # One validation of a paused name is given back a day; the owner may lift the pause at the CA's own site, too.
    usual = _DAY if _PAUSED in str(problem).lower() else _DEFAULT_WAIT
    asked = usual if problem.retry_after is None else problem.retry_after
    return min(max(asked, 0.0), LONGEST_CLOSED)


def _is_foreign(problem: CaProblem) -> bool:
    return problem.status == HTTPStatus.TOO_MANY_REQUESTS and problem.everyone


def _quoted(scopes: Iterable[Scope], words: str) -> list[Scope]:
    """Give those whose subject stands in quotes (Boulder writes an IPv4 address as a /32), or all where none does."""
    every = [*scopes]
    meant = [scope for scope in every if f'"{scope.subject}"' in words or f'"{scope.subject}/32"' in words]
    return meant or every
