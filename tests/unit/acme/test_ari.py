"""Renewal information: what a certificate is called, and when the CA would like it renewed."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from josepy.json_util import decode_b64jose

from ssl_cert_server.acme.ari import RenewalInfo, ari_id
from ssl_cert_server.acme.client import AcmeClient
from ssl_cert_server.errors import AcmeError, CaProblem, MalformedResponse
from tests.support.certs import make_pair
from tests.support.clock import START
from tests.support.fake_ca import BASE, problem
from tests.unit.acme.conftest import LEAF_KEY, Bench

WINDOW = {"start": "2027-01-20T00:00:00Z", "end": "2027-01-22T12:30:00.5+02:00"}
RFC_AKI = bytes.fromhex("69885b6b87464041e1b37b847ba0ae2cde01c8d4")


def leaf(serial: int, *extensions: x509.ExtensionType) -> bytes:
    name = x509.Name([])
    start = datetime.fromtimestamp(START, UTC)
    builder = x509.CertificateBuilder(name, name, LEAF_KEY.public_key(), serial, start, start + timedelta(days=90))
    for extension in extensions:
        builder = builder.add_extension(extension, False)
    return builder.sign(LEAF_KEY, hashes.SHA256()).public_bytes(Encoding.PEM)


def aki(identifier: bytes | None) -> x509.AuthorityKeyIdentifier:
    issuer = None if identifier else [x509.DirectoryName(x509.Name([]))]
    return x509.AuthorityKeyIdentifier(identifier, issuer, None if identifier else 1)


def test_the_example_of_rfc_9773() -> None:
    assert ari_id(leaf(0x87654321, aki(RFC_AKI))) == "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"


def test_it_is_the_leafs_though_others_follow() -> None:
    root = make_pair()
    assert ari_id(leaf(1, aki(RFC_AKI)) + root.pem) == "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AQ"


@pytest.mark.parametrize("extensions", [[], [aki(None)]], ids=["no AKI", "an AKI without a key identifier"])
def test_without_the_issuers_key_identifier_there_is_none(extensions: list[x509.ExtensionType]) -> None:
    assert ari_id(leaf(1, *extensions)) is None


@given(st.integers(min_value=1, max_value=2**159 - 1), st.binary(min_size=1, max_size=20))
def test_the_serial_stands_there_as_in_der(serial: int, identifier: bytes) -> None:
    pem = leaf(serial, aki(identifier))
    name = ari_id(pem)
    assert name is not None
    assert "=" not in name
    key, number = (decode_b64jose(part) for part in name.split("."))
    assert key == identifier
    der = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
    assert bytes([2, len(number)]) + number in der, "the value bytes of an INTEGER"
    assert int.from_bytes(number, "big", signed=True) == serial


def test_a_window_with_all_there_is() -> None:
    info = RenewalInfo.parse({"suggestedWindow": WINDOW, "explanationURL": "https://ca.test/why"}, retry_after=21600.0)
    start = datetime(2027, 1, 20, tzinfo=UTC).timestamp()
    end = datetime(2027, 1, 22, 10, 30, 0, 500_000, tzinfo=UTC).timestamp()
    assert info == RenewalInfo(start, end, "https://ca.test/why", 21600.0)


@pytest.mark.parametrize("url", [None, 5, "", "javascript:alert(1)", "/why"])
def test_an_explanation_that_is_no_page_is_left_out(url: object) -> None:
    assert RenewalInfo.parse({"suggestedWindow": WINDOW, "explanationURL": url}).explanation_url is None


def test_an_explanation_is_one_short_line() -> None:
    info = RenewalInfo.parse({"suggestedWindow": WINDOW, "explanationURL": "https://ca.test/\n" + "x" * 5000})
    assert info.explanation_url is not None
    assert info.explanation_url.isprintable()
    assert len(info.explanation_url) == 500


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([], "not a JSON object"),
        ({}, "suggestedWindow: not a JSON object"),
        ({"suggestedWindow": {"end": WINDOW["end"]}}, "field 'start' is missing"),
        ({"suggestedWindow": {**WINDOW, "end": 1800000000}}, "field 'end' is not a string"),
        ({"suggestedWindow": {**WINDOW, "end": WINDOW["start"]}}, "ends before it starts"),
        ({"suggestedWindow": {"start": WINDOW["end"], "end": WINDOW["start"]}}, "ends before it starts"),
    ],
)
def test_what_is_wrong_is_named(document: Any, words: str) -> None:
    with pytest.raises(MalformedResponse, match=words):
        RenewalInfo.parse(document)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "soon",
        "2027-01-20",
        "2027-01-20T00:00:00",
        "2027-01-20 00:00:00Z",
        "2027-01-20T00:00Z",
        "20270120T000000Z",
        "2027-W03-3T00:00:00Z",
        "2027-13-20T00:00:00Z",
        "2027-02-30T00:00:00Z",
        "2027-01-20T24:00:00Z",
        "2027-01-20T00:00:00+0100",
        "2027-01-20T00:00:00+25:00",
        "2027-01-20T00:00:00Z\n",
        " 2027-01-20T00:00:00Z",
        "٢٠٢٧-01-20T00:00:00Z",
        "0000-01-20T00:00:00Z",
        "2027-01-20T00:00:00." + "0" * 100_000 + "Z",
    ],
)
def test_only_rfc_3339_is_a_time(text: str) -> None:
    with pytest.raises(MalformedResponse, match="no RFC 3339 time") as refusal:
        RenewalInfo.parse({"suggestedWindow": {**WINDOW, "start": text}})
    assert len(str(refusal.value)) < 300


@given(st.text() | st.from_regex(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", fullmatch=True))
def test_any_text_is_a_time_or_refused(text: str) -> None:
    try:
        info = RenewalInfo.parse({"suggestedWindow": {"start": "0001-01-01T00:00:00Z", "end": text}})
    except MalformedResponse:
        return
    assert math.isfinite(info.end)
    assert info.start < info.end


_zones = st.integers(min_value=-23 * 60, max_value=23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
_times = st.datetimes(min_value=datetime(2000, 1, 1), max_value=datetime(2100, 1, 1), timezones=_zones)  # noqa: DTZ001


@given(_times, st.timedeltas(min_value=timedelta(milliseconds=1), max_value=timedelta(days=400)))
def test_every_rfc_3339_time_is_read_as_what_it_is(start: datetime, length: timedelta) -> None:
    end = start + length
    info = RenewalInfo.parse({"suggestedWindow": {"start": start.isoformat(), "end": end.isoformat()}})
    assert (info.start, info.end) == pytest.approx((start.timestamp(), end.timestamp()), abs=1e-6)


def test_nanoseconds_as_go_writes_them() -> None:
    window = {"start": "2027-01-20t00:00:00.123456789z", "end": WINDOW["end"]}
    start = datetime(2027, 1, 20, 0, 0, 0, 123456, tzinfo=UTC).timestamp()
    assert RenewalInfo.parse({"suggestedWindow": window}).start == pytest.approx(start, abs=1e-5)


# --- asking


@pytest.fixture
async def client(bench: Bench) -> AcmeClient:
    bench.ca.renewal_info = {"suggestedWindow": WINDOW}
    bench.client._directory = None
    return bench.client


async def test_it_is_asked_for_without_a_signature(client: AcmeClient, bench: Bench) -> None:
    bench.ca.retry_after = "21600"
    info = await client.renewal_info("aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE")
    assert info.retry_after == 21600
    assert bench.ca.requests == ["directory", "renewalInfo"]
    assert bench.ca.urls[-1] == f"{BASE}/renewalInfo/aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"


async def test_no_retry_after_is_told_as_it_is(client: AcmeClient) -> None:
    assert (await client.renewal_info("a.b")).retry_after is None


async def test_a_ca_without_ari_is_not_asked(bench: Bench) -> None:
    with pytest.raises(AcmeError, match="gives no renewal information"):
        await bench.client.renewal_info("a.b")
    assert bench.ca.requests == []


async def test_a_refusal_carries_its_retry_after(client: AcmeClient, bench: Bench) -> None:
    bench.ca.fail("renewalInfo", problem("rateLimited", status=429, Retry_After="90"))
    with pytest.raises(CaProblem) as refusal:
        await client.renewal_info("a.b")
    assert (refusal.value.status, refusal.value.retry_after) == (429, 90)
    assert bench.ca.requests.count("renewalInfo") == 1


async def test_what_passes_is_asked_again(client: AcmeClient, bench: Bench) -> None:
    bench.ca.fail("renewalInfo", httpx2.Response(503), httpx2.ConnectError("refused"))
    await client.renewal_info("a.b")
    assert bench.ca.requests.count("renewalInfo") == 3


async def test_an_answer_that_is_no_window(client: AcmeClient, bench: Bench) -> None:
    bench.ca.fail("renewalInfo", httpx2.Response(200, content=b"<html>"))
    with pytest.raises(MalformedResponse, match="renewalInfo: the answer is not JSON"):
        await client.renewal_info("a.b")
