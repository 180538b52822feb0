"""Which limit a CA's words mean."""

from __future__ import annotations

import pytest

from ssl_cert_server.errors import CaProblem
from ssl_cert_server.service.budget.buckets import LimitKind, Scope
from ssl_cert_server.service.budget.refusals import refused_for, refused_scopes

NAMES = ("a.example.com", "b.example.org", "192.0.2.1", "2001:db8::1")
SEE = "retry after 2027-01-15 09:13:16 UTC: see https://letsencrypt.org/docs/rate-limits/#anything"


def problem(detail: str, retry_after: float | None = None) -> CaProblem:
    return CaProblem(f"HTTP 429: rateLimited: {detail}", type="rateLimited", status=429, retry_after=retry_after)


@pytest.mark.parametrize(
    ("detail", "kind", "subjects"),
    [
        ("too many new orders (300) from this account in the last 3h0m0s", LimitKind.NEW_ORDERS, ["all"]),
        (
            'too many certificates (50) already issued for "example.com" in the last 168h0m0s',
            LimitKind.REGISTERED_DOMAIN,
            ["example.com"],
        ),
        (
            'too many certificates (50) already issued for "192.0.2.1/32" in the last 168h0m0s',
            LimitKind.REGISTERED_DOMAIN,
            ["192.0.2.1"],
        ),
        (
            'too many certificates (50) already issued for "2001:db8::/64" in the last 168h0m0s',
            LimitKind.REGISTERED_DOMAIN,
            ["2001:db8::/64"],
        ),
        (
            'too many certificates (50) already issued for "somebody.else" in the last 168h0m0s',
            LimitKind.REGISTERED_DOMAIN,
            ["192.0.2.1", "2001:db8::/64", "example.com", "example.org"],
        ),
        (
            "too many certificates (5) already issued for this exact set of identifiers in the last 168h0m0s",
            LimitKind.EXACT_SET,
            ["192.0.2.1,2001:db8::1,a.example.com,b.example.org"],
        ),
        (
            "too many certificates (5) already issued for this exact set of domains in the last 168h0m0s",
            LimitKind.EXACT_SET,
            ["192.0.2.1,2001:db8::1,a.example.com,b.example.org"],
        ),
        (
            'Too many failed authorizations (5) for "b.example.org" in the last 1h0m0s',
            LimitKind.FAILED_AUTHORIZATIONS,
            ["b.example.org"],
        ),
        (
            "Your account is temporarily prevented from requesting certificates for b.example.org, 192.0.2.1 and "
            "possibly others. Please visit: https://portal.example/unpause",
            LimitKind.FAILED_AUTHORIZATIONS,
            ["192.0.2.1", "b.example.org"],
        ),
    ],
)
def test_the_words_of_lets_encrypt(detail: str, kind: LimitKind, subjects: list[str]) -> None:
    assert refused_scopes(problem(f"{detail}, {SEE}"), NAMES) == [Scope(kind, subject) for subject in subjects]


@pytest.mark.parametrize("detail", ["", "slow down", "Rate limit for '/acme/new-order' reached", "too many requests"])
def test_words_that_say_no_limit(detail: str) -> None:
    assert refused_scopes(problem(detail), NAMES) == []


def test_a_paused_name_is_tried_once_a_day() -> None:
    paused = problem("Your account is temporarily prevented from requesting certificates for b.example.org")
    assert refused_for(paused) == 86_400


@pytest.mark.parametrize(("asked", "closed"), [(None, 3600.0), (0.0, 0.0), (-9.0, 0.0), (20.0, 20.0), (1e9, 604_800.0)])
def test_for_how_long(asked: float | None, closed: float) -> None:
    assert refused_for(problem("any", asked)) == closed
