"""Refusals as exceptions: short, on one line, and without secrets."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from ssl_cert_server.acme.problems import ca_problem

URN = "urn:ietf:params:acme:error:"
TOKEN = "DGyRejmCefe7v4NfDGDKfA-x_y"
KEY_AUTHORIZATION = f"{TOKEN}.{'t' * 43}"


def of(document: Any, status: int = 403) -> Any:
    return ca_problem(status, json.dumps(document).encode(), retry_after=None)


def test_carries_type_status_and_words() -> None:
    error = ca_problem(429, json.dumps({"type": f"{URN}rateLimited", "detail": "slow"}).encode(), retry_after=7.0)
    assert (error.type, error.status, error.retry_after) == ("rateLimited", 429, 7.0)
    assert str(error) == "HTTP 429: rateLimited: slow"


def test_foreign_types_stay_whole() -> None:
    assert of({"type": "https://ca.test/errors/billing"}).type == "https://ca.test/errors/billing"


def test_title_stands_in_for_detail() -> None:
    assert str(of({"type": f"{URN}malformed", "title": "No"})) == "HTTP 403: malformed: No"


def test_subproblems_name_their_identifier() -> None:
    sub = {"type": f"{URN}caa", "detail": "forbids", "identifier": {"type": "dns", "value": "b.example"}}
    error = of({"type": f"{URN}compound", "detail": "several", "subproblems": [sub, "x", None]})
    assert str(error).startswith("HTTP 403: compound: several; b.example: caa: forbids")


def test_subproblems_of_subproblems_are_not_followed() -> None:
    document: dict[str, Any] = {"type": f"{URN}compound"}
    for _ in range(400):
        document = {"type": f"{URN}compound", "subproblems": [document]}
    assert str(of(document)) == "HTTP 403: compound; compound"


@pytest.mark.parametrize(
    "document", [{"type": f"{URN}malformed", "detail": "x" * 200_000}, {"type": "t" * 200_000, "detail": "d" * 2000}]
)
def test_long_ones_are_cut(document: dict[str, str]) -> None:
    error = of(document)
    assert len(str(error)) == 1000
    assert str(error).endswith("…")
    assert len(error.type) <= 200


def test_many_subproblems_are_cut() -> None:
    error = of({"type": f"{URN}compound", "subproblems": [{"type": f"{URN}caa", "detail": "y"}] * 10_000})
    assert len(str(error)) == 1000


def test_one_log_line_whatever_the_ca_sends() -> None:
    error = of({"type": f"{URN}a\nb", "detail": "one\r\ntwo\x1b[31m\x00\u2028three\u202efour"})
    assert str(error).isprintable()
    assert error.type.isprintable()
    assert "two" in str(error)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "HTTP 502: about:blank"),
        (b"<html>\n<h1>502 Bad Gateway</h1>", "HTTP 502: about:blank: <html> <h1>502 Bad Gateway</h1>"),
        (b"[1, 2]", "HTTP 502: about:blank: [1, 2]"),
        (b'{"type": "x"', 'HTTP 502: about:blank: {"type": "x"'),
        (b"\xff\xfe", "HTTP 502: about:blank: ��"),
        (b'{"type": 5, "detail": ["x"], "subproblems": {}}', "HTTP 502: about:blank"),
    ],
)
def test_bodies_that_are_no_problem_document(body: bytes, words: str) -> None:
    error = ca_problem(502, body, retry_after=None)
    assert str(error) == words
    assert error.type == "about:blank"


def test_deep_nesting_does_not_crash() -> None:
    assert ca_problem(500, b"[" * 500_000, retry_after=None).status == 500


@pytest.mark.parametrize(
    "detail",
    [
        f'expected "{KEY_AUTHORIZATION}" (got "x")',
        f"expected {KEY_AUTHORIZATION}.",
        f"Fetching http://a.example/.well-known/acme-challenge/{TOKEN}: refused",
        "x" * 980 + f" {KEY_AUTHORIZATION}",  # cutting must not come before cleaning
    ],
)
def test_key_authorizations_and_tokens_are_taken_out(detail: str) -> None:
    for error in (
        of({"type": f"{URN}unauthorized", "detail": detail}),
        of({"type": f"{URN}compound", "subproblems": [{"type": "x", "detail": detail}]}),
        ca_problem(500, detail.encode(), retry_after=None),
    ):
        assert TOKEN[:6] not in str(error)


def test_host_names_are_left_alone() -> None:
    name = f"a-rather-long-label-of-a-customer.{'b' * 43}.example"
    assert name in str(of({"type": f"{URN}dns", "detail": f"no A record for {name}"}))


def test_cleaning_a_megabyte_is_quick() -> None:
    started = time.thread_time()
    of({"type": "x", "detail": "a" * 1_000_000})
    of({"type": "x", "detail": "a." * 500_000})
    assert time.thread_time() - started < 5  # minutes, where the search is quadratic
