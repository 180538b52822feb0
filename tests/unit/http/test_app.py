from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace

import httpx2
import pytest
from structlog.testing import capture_logs

from ssl_cert_server.errors import (
    BackingOff,
    CertServerError,
    DeadlineExceeded,
    InvalidCertificate,
    Overloaded,
    StorageError,
    Unavailable,
)
from ssl_cert_server.model import KeyFamily, Subject
from ssl_cert_server.ocsp.codec import OcspStatus
from ssl_cert_server.ocsp.staples import Staple, save_staple
from tests.support.clock import START
from tests.support.leaves import make_certificate
from tests.support.ocsp_ca import OcspCa
from tests.unit.http.support import Site

SECRET = "-----BEGIN EC PRIVATE KEY-----"
TOKEN = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA"
KEY_AUTHORIZATION = TOKEN + ".9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"


@pytest.fixture
async def site() -> Site:
    return Site()


@pytest.fixture
async def client(site: Site) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(app=site.app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://server") as client:
        yield client


def _is_one_line(response: httpx2.Response) -> bool:
    return response.text.endswith("\n") and response.text.count("\n") == 1 and len(response.text) > 5


class TestCert:
    """``GET /cert/{name}``."""

    async def test_gives_the_certificate_with_the_protocols_headers(
        self, site: Site, client: httpx2.AsyncClient
    ) -> None:
        response = await client.get("/cert/a.com")
        certificate = site.acme.certificate
        assert response.status_code == 200
        assert dict(response.headers) == {
            "content-type": "application/json",
            "content-length": str(len(response.content)),
            "etag": f'"{certificate.fingerprint}"',
            "cache-control": "no-store",
        }
        assert json.loads(response.content) == {
            "type": 0,
            "cert": certificate.chain_pem.decode(),
            "pkey": certificate.key_pem.decode(),
            "fingerprint": certificate.fingerprint,
            "expire_at": certificate.not_after,
            "ttl": 3570,
        }

    async def test_a_managed_one_is_type_1(self, client: httpx2.AsyncClient) -> None:
        assert (await client.get("/cert/managed.net")).json()["type"] == 1

    @pytest.mark.parametrize(
        ("path", "name"),
        [
            ("/cert/A.Com", "a.com"),
            ("/cert/a.com.", "a.com"),
            ("/cert/b%C3%BCcher.com", "xn--bcher-kva.com"),
            ("/cert/B%C3%9CCHER.com", "xn--bcher-kva.com"),
            ("/cert/xn--bcher-kva.com", "xn--bcher-kva.com"),
            ("/cert/%61.com", "a.com"),
            ("/cert/a.com?alpn=0", "a.com"),
            ("/cert/a.com?unknown=1", "a.com"),
        ],
    )
    async def test_every_spelling_of_a_name_is_one_name(
        self, site: Site, client: httpx2.AsyncClient, path: str, name: str
    ) -> None:
        assert (await client.get(path)).status_code == 200
        assert site.acme.asked == [name]

    async def test_a_name_that_no_rule_covers_is_400(self, site: Site, client: httpx2.AsyncClient) -> None:
        response = await client.get("/cert/a.net")
        assert (response.status_code, response.text) == (400, "a.net is not permitted here\n")
        assert response.headers["content-type"] == "text/plain; charset=utf-8"
        assert site.acme.asked == []

    @pytest.mark.parametrize(
        "name",
        [
            "",
            "%2E",
            "%2E%2E",
            "%2E%2E%2Fetc%2Fpasswd",
            "a.com/b.com",
            "a.com%2Fb.com",
            "a%00.com",
            "a.com%0d%0aX-Evil:%201",
            "%0a",
            "%FF%FE.com",
            "a..com",
            ".a.com",
            "-a.com",
            "a-.com",
            "_acme.a.com",
            "*.a.com",
            "%2A.com",
            "a b.com",
            "a%20.com",
            "10.0.0.256",
            "%5Ba.com%5D",
            "%5B10.0.0.1%5D",
            "0x7f.1",
            "a.com:443",
            "user@a.com",
            "a" * 64 + ".com",
            "a." * 130 + "com",
            "a" * 5000,
            "xn--a",
            "xn--zzzzzzzzzzzzzz.com",
            "%E2%80%AE.com",
            "%F0%9F%98%80" * 100,
            "a%E3%80%82..com",
            "acme_account+key",
            "a.com+rsa",
            "<script>alert(1)</script>",
            "$%7Bjndi:ldap:%2F%2Fx%7D",
            "%25s%25n",
        ],
    )
    async def test_a_hostile_name_is_400_in_one_line_that_does_not_repeat_it(
        self, site: Site, client: httpx2.AsyncClient, name: str
    ) -> None:
        response = await client.get(f"/cert/{name}")
        assert response.status_code == 400
        assert _is_one_line(response)
        assert response.text.startswith("invalid host name: ")
        assert response.text.isascii()
        assert "x-evil" not in response.headers
        assert site.acme.asked == []

    @pytest.mark.parametrize(
        ("path", "name"),
        [
            ("/cert/192.0.2.1", "192.0.2.1"),
            ("/cert/2001:db8::1", "2001:db8::1"),
            ("/cert/[2001:db8::1]", "2001:db8::1"),
            ("/cert/%5B2001:DB8:0:0::1%5D", "2001:db8::1"),
        ],
    )
    async def test_an_ip_address_is_asked_for_in_any_spelling(
        self, site: Site, client: httpx2.AsyncClient, path: str, name: str
    ) -> None:
        site.acme.certificate = make_certificate("192.0.2.1", "2001:db8::1")
        assert (await client.get(path)).status_code == 200
        assert site.acme.asked == [name]

    @pytest.mark.parametrize("address", ["10.0.0.1", "::1", "%5B::1%5D"])
    async def test_an_ip_address_that_no_rule_covers_is_400(
        self, site: Site, client: httpx2.AsyncClient, address: str
    ) -> None:
        response = await client.get(f"/cert/{address}")
        assert response.status_code == 400
        assert response.text.endswith(" is not permitted here\n")
        assert site.acme.asked == []

    async def test_no_challenge_is_pending_for_alpn(self, site: Site, client: httpx2.AsyncClient) -> None:
        response = await client.get("/cert/a.com?alpn=1")
        assert response.status_code == 400
        assert _is_one_line(response)
        assert site.acme.asked == []

    async def test_head_has_the_headers_of_get(self, client: httpx2.AsyncClient) -> None:
        assert (await client.head("/cert/a.com")).headers == (await client.get("/cert/a.com")).headers

    @pytest.mark.parametrize("error", [StorageError(SECRET), InvalidCertificate(SECRET), CertServerError(SECRET)])
    async def test_a_failure_is_500_and_the_reason_stays_here(
        self, site: Site, client: httpx2.AsyncClient, error: Exception
    ) -> None:
        site.acme.error = error
        response = await client.get("/cert/a.com")
        assert response.status_code == 500
        assert _is_one_line(response)
        assert SECRET not in response.text
        assert "retry-after" not in response.headers

    @pytest.mark.parametrize(
        ("error", "seconds"),
        [
            (BackingOff(SECRET, 59.2), "60"),
            (Overloaded(SECRET, 30.0), "30"),
            (DeadlineExceeded(SECRET, 0.1), "1"),
            (Unavailable(SECRET, 2.0), "2"),
        ],
    )
    async def test_what_passes_is_500_with_retry_after(
        self, site: Site, client: httpx2.AsyncClient, error: Exception, seconds: str
    ) -> None:
        site.acme.error = error
        response = await client.get("/cert/a.com")
        assert (response.status_code, response.headers["retry-after"]) == (500, seconds)
        assert _is_one_line(response)
        assert SECRET not in response.text

    @pytest.mark.parametrize("error", [Overloaded("too many", 30.0), DeadlineExceeded("too slow", 5.0)])
    async def test_what_nobody_else_tells_is_logged_with_each_request(
        self, site: Site, client: httpx2.AsyncClient, error: Exception
    ) -> None:
        site.acme.error = error
        with capture_logs() as logs:
            await client.get("/cert/a.com")
        assert logs == [
            {"event": "request.refused", "log_level": "warning", "path": "/cert/a.com", "reason": str(error)}
        ]

    @pytest.mark.parametrize(
        "error", [BackingOff("failed lately", 60.0), Unavailable("the managed one can't be used", 2.0)]
    )
    async def test_what_was_told_when_it_happened_is_not_told_with_each_request(
        self, site: Site, client: httpx2.AsyncClient, error: Exception
    ) -> None:
        site.acme.error = error
        with capture_logs() as logs:
            assert (await client.get("/cert/a.com")).status_code == 500
        assert logs == []

    @pytest.mark.parametrize(
        "error", [ZeroDivisionError(SECRET), KeyError(SECRET), ExceptionGroup(SECRET, [OSError()])]
    )
    async def test_a_bug_is_500_without_a_traceback(
        self, site: Site, client: httpx2.AsyncClient, error: Exception
    ) -> None:
        site.acme.error = error
        response = await client.get("/cert/a.com")
        assert response.status_code == 500
        assert _is_one_line(response)
        for leak in (SECRET, "Traceback", type(error).__name__, ".py"):
            assert leak not in response.text
        site.acme.error = None
        assert (await client.get("/cert/a.com")).status_code == 200


class TestKeyType:
    """``?keytype=`` chooses between certificates of different families."""

    async def test_each_family_has_its_own_answer(self) -> None:
        site = Site([KeyFamily.ECDSA, KeyFamily.RSA])
        ecdsa, rsa = site.acme.certificate, replace(make_certificate("*.com"), family=KeyFamily.RSA)
        transport = httpx2.ASGITransport(app=site.app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://server") as client:
            for query in ("", "?keytype=ecdsa"):
                assert (await client.get(f"/cert/a.com{query}")).json()["fingerprint"] == ecdsa.fingerprint
            site.acme.certificate = rsa
            for query, certificate in (("", ecdsa), ("?keytype=rsa", rsa), ("?keytype=ecdsa", ecdsa)):
                assert (await client.get(f"/cert/a.com{query}")).json()["fingerprint"] == certificate.fingerprint
        assert site.acme.asked == ["a.com", "a.com"]

    async def test_clients_are_told_where_there_are_several(self) -> None:
        site = Site([KeyFamily.RSA, KeyFamily.ECDSA])
        site.acme.certificate = replace(site.acme.certificate, family=KeyFamily.RSA)
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=site.app), base_url="http://server") as client:
            response = await client.get("/cert/a.com")
            assert response.headers["x-keytypes"] == "rsa, ecdsa"
            response = await client.get("/cert/a.com", headers={"If-None-Match": response.headers["etag"]})
            assert (response.status_code, response.headers["x-keytypes"]) == (304, "rsa, ecdsa")
            assert "x-keytypes" not in (await client.get("/cert/managed.net")).headers

    async def test_where_there_is_one_nothing_is_said_of_it(self, client: httpx2.AsyncClient) -> None:
        assert "x-keytypes" not in (await client.get("/cert/a.com")).headers

    async def test_one_that_is_not_issued_is_400(self, site: Site, client: httpx2.AsyncClient) -> None:
        response = await client.get("/cert/a.com?keytype=rsa")
        assert response.status_code == 400
        assert response.text == "a.com: certificates with RSA keys are not issued here\n"
        assert site.acme.asked == []

    @pytest.mark.parametrize("wanted", ["", "RSA", "dsa", "rsa-2048", "%00", "<script>"])
    async def test_one_that_there_is_not_is_400(self, site: Site, client: httpx2.AsyncClient, wanted: str) -> None:
        response = await client.get(f"/cert/a.com?keytype={wanted}")
        assert (response.status_code, response.text) == (400, "keytype must be ecdsa or rsa\n")
        assert site.acme.asked == []


class TestConditional:
    """``If-None-Match``: a refresh that moves no key."""

    @pytest.mark.parametrize("form", ['"{}"', 'W/"{}"', '"other", "{}"', '"{}","other"', ' "{}" '])
    async def test_a_client_that_has_it_gets_304_and_the_ttl(
        self, site: Site, client: httpx2.AsyncClient, form: str
    ) -> None:
        tag = form.format(site.acme.certificate.fingerprint)
        response = await client.get("/cert/a.com", headers={"If-None-Match": tag})
        assert (response.status_code, response.content) == (304, b"")
        assert response.headers["x-ttl"] == "3570"
        assert response.headers["etag"] == f'"{site.acme.certificate.fingerprint}"'
        assert response.headers["cache-control"] == "no-store"

    @pytest.mark.parametrize("tag", ['"other"', "", "{}", '"{}', "W/{}", '""'])
    async def test_one_that_has_another_gets_it_whole(self, site: Site, client: httpx2.AsyncClient, tag: str) -> None:
        value = tag.format(site.acme.certificate.fingerprint)
        response = await client.get("/cert/a.com", headers={"If-None-Match": value})
        assert response.status_code == 200
        assert "x-ttl" not in response.headers

    async def test_a_replaced_certificate_is_sent_whole(self, site: Site, client: httpx2.AsyncClient) -> None:
        tag = (await client.get("/cert/a.com")).headers["etag"]
        site.acme.certificate = make_certificate("*.com")
        site.certificates.replace(Subject("a.com", ("a.com",)), site.acme.certificate)
        response = await client.get("/cert/a.com", headers={"If-None-Match": tag})
        assert response.status_code == 200
        assert response.json()["fingerprint"] == site.acme.certificate.fingerprint

    async def test_near_expiry_the_ttl_shrinks(self, site: Site, client: httpx2.AsyncClient) -> None:
        site.acme.certificate = make_certificate("*.com", end=START + 1000)
        tag = (await client.get("/cert/a.com")).headers["etag"]
        site.clock.jump(500)
        response = await client.get("/cert/a.com", headers={"If-None-Match": tag})
        assert response.headers["x-ttl"] == "400"


class TestOcsp:
    """``GET /ocsp/{name}``."""

    async def test_there_is_no_staple(self, site: Site, client: httpx2.AsyncClient) -> None:
        for path in ("/ocsp/a.com", "/ocsp/a.com?fp=" + site.acme.certificate.fingerprint, "/ocsp/not-permitted.net"):
            response = await client.get(path)
            assert (response.status_code, response.content) == (204, b"")
        assert site.acme.asked == []

    async def test_a_staple_is_der_with_its_times(self, site: Site, client: httpx2.AsyncClient) -> None:
        certificate = site.acme.certificate = OcspCa().leaf("*.com")
        staple = Staple(certificate.fingerprint, OcspStatus.GOOD, b"\x30\x00", START - 10, START + 7200.5, START + 3600)
        await save_staple(site.storage, "a.com", staple)
        for query in ("", f"?fp={certificate.fingerprint}", f"?fp={certificate.fingerprint.upper()}"):
            response = await client.get(f"/ocsp/A.com{query}")
            assert (response.status_code, response.content) == (200, b"\x30\x00")
            assert response.headers["content-type"] == "application/ocsp-response"
            assert response.headers["x-expire-at"] == str(int(START + 7200))
            assert response.headers["x-ttl"] == "3570"
        assert (await client.get("/ocsp/a.com?fp=00")).status_code == 204
        assert site.acme.asked == [], "nothing is issued for the sake of a staple"

    async def test_storage_that_fails_is_500_without_the_reason(self, site: Site, client: httpx2.AsyncClient) -> None:
        site.storage.break_down("get")
        response = await client.get("/ocsp/a.com")
        assert response.status_code == 500
        assert "disk" not in response.text

    async def test_an_invalid_name_is_400(self, client: httpx2.AsyncClient) -> None:
        response = await client.get("/ocsp/a_b")
        assert response.status_code == 400
        assert _is_one_line(response)


class TestChallenge:
    """``GET /.well-known/acme-challenge/{token}``."""

    path = f"/.well-known/acme-challenge/{TOKEN}"

    async def test_a_pending_one_is_answered_whatever_the_host(self, site: Site, client: httpx2.AsyncClient) -> None:
        await site.http01.present("a.com", TOKEN, KEY_AUTHORIZATION)
        for host in ("a.com", "elsewhere.net", "["):
            response = await client.get(self.path, headers={"Host": host})
            assert (response.status_code, response.text) == (200, KEY_AUTHORIZATION)
            assert response.headers["content-type"].startswith("text/plain")

    async def test_after_cleanup_it_is_404(self, site: Site, client: httpx2.AsyncClient) -> None:
        await site.http01.present("a.com", TOKEN, KEY_AUTHORIZATION)
        await site.http01.cleanup("a.com", TOKEN)
        assert (await client.get(self.path)).status_code == 404

    @pytest.mark.parametrize("token", ["", "unknown", "..%2F..%2Fa.com", "a/b", "%00", "x" * 3000, "%C3%BC"])
    async def test_any_other_is_404(self, client: httpx2.AsyncClient, token: str) -> None:
        response = await client.get(f"/.well-known/acme-challenge/{token}")
        assert (response.status_code, response.text) == (404, "no such challenge\n")

    async def test_storage_that_is_gone_is_500(self, site: Site, client: httpx2.AsyncClient) -> None:
        site.storage.break_down("get")
        response = await client.get(self.path)
        assert response.status_code == 500
        assert _is_one_line(response)
        assert TOKEN not in response.text


class TestHealth:
    """``/healthz`` and ``/readyz``."""

    async def test_a_process_that_answers_is_alive(self, site: Site, client: httpx2.AsyncClient) -> None:
        site.storage.break_down("check_writable", "get", "put")
        response = await client.get("/healthz")
        assert (response.status_code, response.text) == (200, "ok\n")

    async def test_ready_while_storage_can_be_written(self, site: Site, client: httpx2.AsyncClient) -> None:
        response = await client.get("/readyz")
        assert (response.status_code, response.text) == (200, "ok\n")
        site.storage.break_down("check_writable")
        await site.clock.advance(2)
        response = await client.get("/readyz")
        assert (response.status_code, response.text) == (503, "storage can't be written\n")


@pytest.mark.parametrize("path", ["/cert/a.com", "/ocsp/a.com", "/healthz", "/readyz", TestChallenge.path])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_other_methods_are_405(site: Site, client: httpx2.AsyncClient, method: str, path: str) -> None:
    response = await client.request(method, path)
    assert response.status_code == 405
    assert "GET" in response.headers["allow"]
    assert site.acme.asked == []


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/cert",
        "/certs/a.com",
        "/ocsp",
        "/healthz/",
        "/metrics.txt",
        "/.well-known/",
        "//cert/a.com",
        "/CERT/a.com",
    ],
)
async def test_any_other_path_is_404(client: httpx2.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 404


async def test_a_query_that_is_not_text_does_not_show_a_bug(site: Site) -> None:
    site.acme.error = StorageError("gone")
    sent: list[dict[str, object]] = []
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/cert/a.com",
        "raw_path": b"/cert/a.com",
        "query_string": b"x=\xff\xfe",
        "headers": [(b"host", b"[")],
        "http_version": "1.1",
        "scheme": "http",
        "server": None,
        "client": None,
        "root_path": "",
    }

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: object) -> None:
        assert isinstance(message, dict)
        sent.append(message)

    await site.app(scope, receive, send)
    assert sent[0]["status"] == 500
    assert b"no answer could be had" in bytes(str(sent[1]["body"]), "ascii")
