"""Asking: GET or POST, by the hash that is understood, of the issuer that is found."""

from __future__ import annotations

import base64
import urllib.parse
from collections.abc import Callable

import httpx2
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from cryptography.x509 import ocsp

from ssl_cert_server.errors import MalformedStaple, OcspError, ResponderRefused, ResponderUnreachable
from ssl_cert_server.model import Certificate
from ssl_cert_server.ocsp.codec import CertIdHash, OcspStatus
from ssl_cert_server.ocsp.exchange import MAX_BODY
from ssl_cert_server.ocsp.responder import Responder, Word
from ssl_cert_server.ocsp.staples import Staple
from tests.support.certs import DAY
from tests.support.clock import START, ManualClock
from tests.support.ocsp_ca import RESPONDER, OcspCa, make_ca, refusal

CA = OcspCa()
LEAF = CA.leaf("a.com")
Answering = Callable[[httpx2.Request], httpx2.Response]


class Wire:
    """A responder on the other end; ``requests`` are what it was asked."""

    def __init__(self, answer: Answering) -> None:
        self.requests: list[httpx2.Request] = []
        self._answer = answer
        self._http = httpx2.AsyncClient(transport=httpx2.MockTransport(self._handle))
        self.clock = ManualClock()
        self._responder = Responder(self._http, self.clock)

    async def ask(self, certificate: Certificate = LEAF, before: Staple | None = None) -> Word:
        return await self._responder.ask(certificate, before or Staple(certificate.fingerprint))

    def _handle(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        return self._answer(request)


def asked(request: httpx2.Request) -> ocsp.OCSPRequest:
    if request.method == "POST":
        return ocsp.load_der_ocsp_request(request.content)
    encoded = request.url.raw_path.decode().rpartition("/")[2]
    return ocsp.load_der_ocsp_request(base64.b64decode(urllib.parse.unquote(encoded), validate=True))


def good(request: httpx2.Request, ca: OcspCa = CA, leaf: Certificate = LEAF) -> httpx2.Response:
    response = ca.response(leaf, algorithm=asked(request).hash_algorithm)
    return httpx2.Response(200, content=response, headers={"ETag": '"1"', "Cache-Control": "public, max-age=3600"})


async def test_a_short_question_is_a_get_that_caches_can_answer() -> None:
    wire = Wire(good)
    word = await wire.ask()
    [request] = wire.requests
    assert request.method == "GET"
    assert len(str(request.url)) <= 255
    assert str(request.url).startswith(f"{RESPONDER}/")
    assert isinstance(asked(request).hash_algorithm, hashes.SHA256)
    assert request.headers["accept"] == "application/ocsp-response"
    assert word.verdict is not None
    assert (word.verdict.status, word.max_age, word.etag) == (OcspStatus.GOOD, 3600.0, '"1"')
    assert word.response == CA.response(LEAF) or word.response  # signed anew each time


async def test_what_is_signed_on_the_spot_is_not_from_the_future() -> None:
    wire = Wire(lambda request: good(request))

    def answer(request: httpx2.Request) -> httpx2.Response:
        wire.clock.jump(2)
        response = CA.response(LEAF, this_update=wire.clock.now(), algorithm=asked(request).hash_algorithm)
        return httpx2.Response(200, content=response)

    wire._answer = answer
    await wire.ask()
    assert len(wire.requests) == 1


async def test_a_long_one_is_a_post() -> None:
    leaf = OcspCa(CA.pair, urls=[f"{RESPONDER}/{'x' * 120}"]).leaf("a.com")
    wire = Wire(lambda request: good(request, leaf=leaf))
    await wire.ask(leaf)
    [request] = wire.requests
    assert request.method == "POST"
    assert str(request.url) == leaf.ocsp_urls[0]
    assert request.headers["content-type"] == "application/ocsp-request"


async def test_base64_is_escaped_and_a_slash_at_the_end_not_doubled() -> None:
    leaf = OcspCa(CA.pair, urls=[f"{RESPONDER}/"]).leaf("a.com")
    wire = Wire(lambda request: good(request, leaf=leaf))
    await wire.ask(leaf)
    path = wire.requests[0].url.raw_path.decode()
    assert path.count("/") == 1
    assert "+" not in path
    assert "=" not in path


NO_SHA256: list[Answering] = [
    lambda _: httpx2.Response(200, content=refusal(ocsp.OCSPResponseStatus.UNAUTHORIZED)),
    lambda _: httpx2.Response(200, content=refusal(ocsp.OCSPResponseStatus.MALFORMED_REQUEST)),
    lambda _: httpx2.Response(400),
    lambda _: httpx2.Response(200, content=b"garbage"),
    lambda _: httpx2.Response(200, content=CA.response(LEAF, status=ocsp.OCSPCertStatus.UNKNOWN)),
]


@pytest.mark.parametrize("refused", NO_SHA256)
async def test_a_responder_that_knows_sha1_only_is_asked_by_that(refused: Answering) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        return refused(request) if isinstance(asked(request).hash_algorithm, hashes.SHA256) else good(request)

    wire = Wire(answer)
    word = await wire.ask()
    assert word.algorithm is CertIdHash.SHA1
    assert word.verdict is not None
    assert word.verdict.status is OcspStatus.GOOD
    assert len(wire.requests) == 2
    await wire.ask(before=Staple(LEAF.fingerprint, algorithm=word.algorithm))
    assert len(wire.requests) == 3, "that is remembered"


async def test_unknown_is_believed_when_both_hashes_give_it() -> None:
    response = CA.response(LEAF, status=ocsp.OCSPCertStatus.UNKNOWN)
    wire = Wire(lambda _: httpx2.Response(200, content=response))
    word = await wire.ask()
    assert word.verdict is not None
    assert word.verdict.status is OcspStatus.UNKNOWN
    assert len(wire.requests) == 2


@pytest.mark.parametrize("refused", NO_SHA256[:4])
async def test_unknown_is_believed_where_the_other_hash_is_not_understood(refused: Answering) -> None:
    unknown = CA.response(LEAF, status=ocsp.OCSPCertStatus.UNKNOWN)

    def answer(request: httpx2.Request) -> httpx2.Response:
        sha1 = isinstance(asked(request).hash_algorithm, hashes.SHA1)
        return refused(request) if sha1 else httpx2.Response(200, content=unknown)

    word = await Wire(answer).ask()
    assert word.verdict is not None
    assert (word.verdict.status, word.algorithm) == (OcspStatus.UNKNOWN, CertIdHash.SHA256)


async def test_where_both_hashes_are_refused_it_is_told_why_the_first_was() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(400 if isinstance(asked(request).hash_algorithm, hashes.SHA1) else 403)

    with pytest.raises(ResponderRefused, match="status 403"):
        await Wire(answer).ask()


async def test_one_that_is_down_is_not_asked_twice() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("refused", request=request)

    wire = Wire(answer)
    with pytest.raises(ResponderUnreachable, match=r"GET http://ocsp.ca.test/\S+: ConnectError: refused"):
        await wire.ask()
    assert len(wire.requests) == 1


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (httpx2.Response(503, headers={"Retry-After": "120"}), ResponderUnreachable, "status 503"),
        (httpx2.Response(302, headers={"Location": "http://elsewhere"}), ResponderUnreachable, "status 302"),
        (httpx2.Response(304), ResponderUnreachable, "status 304"),
        (httpx2.Response(404), ResponderRefused, "status 404"),
        (httpx2.Response(200, content=b"x" * (MAX_BODY + 1)), ResponderUnreachable, "longer than"),
        (httpx2.Response(200, content=b""), MalformedStaple, "can't be parsed"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_what_is_no_answer_is_told(answer: httpx2.Response, kind: type[OcspError], words: str) -> None:
    def give(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(answer.status_code, headers=answer.headers, content=answer.content)

    with pytest.raises(kind, match=words) as caught:
        await Wire(give).ask()
    assert caught.value.retry_after == (120.0 if answer.status_code == 503 else None)


async def test_the_second_url_is_tried_where_the_first_fails() -> None:
    leaf = OcspCa(CA.pair, urls=["http://down.test", RESPONDER]).leaf("a.com")

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(500) if request.url.host == "down.test" else good(request, leaf=leaf)

    word = await Wire(answer).ask(leaf)
    assert word.verdict is not None


KNOWN = Staple(LEAF.fingerprint, OcspStatus.GOOD, b"response", START - DAY, START + DAY, etag='"7"')


async def test_what_has_not_changed_is_not_sent_again() -> None:
    wire = Wire(lambda _: httpx2.Response(304, headers={"Cache-Control": "max-age=60"}))
    word = await wire.ask(before=KNOWN)
    assert wire.requests[0].headers["if-none-match"] == '"7"'
    assert (word.verdict, word.response, word.max_age, word.etag) == (None, b"response", 60.0, '"7"')


async def test_a_staple_that_holds_no_more_is_not_asked_for_by_its_tag() -> None:
    wire = Wire(good)
    wire.clock.jump(2 * DAY)
    await wire.ask(before=KNOWN)
    assert "if-none-match" not in wire.requests[0].headers


@pytest.mark.parametrize(
    ("headers", "max_age"),
    [
        ({}, 0.0),
        ({"Cache-Control": "no-cache"}, 0.0),
        ({"Cache-Control": "max-age=10, public"}, 10.0),
        ({"Cache-Control": 'Max-Age="11"'}, 11.0),
        ({"Cache-Control": "s-maxage=9"}, 0.0),
        ({"Expires": "Fri, 15 Jan 2027 09:00:00 GMT"}, 3600.0),
        ({"Expires": "Fri, 15 Jan 2027 07:00:00 GMT"}, 0.0),
        ({"Expires": "-1"}, 0.0),
        ({"Expires": "3600"}, 0.0),
        ({"Cache-Control": "max-age=5", "Expires": "Fri, 15 Jan 2027 09:00:00 GMT"}, 5.0),
    ],
)
async def test_http_tells_how_long_caches_keep_it(headers: dict[str, str], max_age: float) -> None:
    word = await Wire(lambda _: httpx2.Response(200, content=CA.response(LEAF), headers=headers)).ask()
    assert word.max_age == max_age


ISSUER = "http://ca.test/issuer"
DER = CA.pair.certificate.public_bytes(Encoding.DER)
FORMS = {
    "DER": DER,
    "PEM": CA.pair.pem,
    "PKCS7": pkcs7.serialize_certificates([make_ca("another").certificate, CA.pair.certificate], Encoding.DER),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
async def test_an_issuer_that_the_chain_lacks_is_fetched_once(form: bytes) -> None:
    leaf = OcspCa(CA.pair, issuer_urls=[ISSUER]).leaf("a.com", with_chain=False)

    def answer(request: httpx2.Request) -> httpx2.Response:
        if str(request.url) == ISSUER:
            return httpx2.Response(200, content=form)
        return good(request, leaf=leaf)

    wire = Wire(answer)
    for _ in range(2):
        word = await wire.ask(leaf)
        assert word.verdict is not None
    assert [str(request.url) for request in wire.requests].count(ISSUER) == 1


NOT_THE_ISSUER = ["nothing", "garbage", "another of its name", "a delegate of its"]


@pytest.mark.parametrize("body", [b"", b"garbage", make_ca("CA").pem, CA.delegate().pem], ids=NOT_THE_ISSUER)
async def test_what_is_not_the_issuer_is_not_taken_for_it(body: bytes) -> None:
    leaf = OcspCa(CA.pair, issuer_urls=[ISSUER]).leaf("a.com", with_chain=False)
    wire = Wire(lambda _: httpx2.Response(200, content=body))
    with pytest.raises(MalformedStaple, match="issuer stands neither"):
        await wire.ask(leaf)
    assert [str(request.url) for request in wire.requests] == [ISSUER], "nobody is asked without knowing whom to trust"


async def test_the_issuer_is_found_wherever_it_stands_in_the_chain() -> None:
    others = b"".join(make_ca(subject).pem for subject in ("CA", "another"))  # the first has the same name
    leaf, issuer = LEAF.chain_pem.split(b"-----END CERTIFICATE-----\n")[:2]
    end = b"-----END CERTIFICATE-----\n"
    shuffled = Certificate(
        LEAF.key_pem,
        leaf + end + others + issuer + end,
        LEAF.fingerprint,
        LEAF.not_before,
        LEAF.not_after,
        LEAF.names,
        LEAF.family,
        LEAF.ocsp_urls,
    )
    word = await Wire(good).ask(shuffled)
    assert word.verdict is not None
