"""``GET /cert/{name}?alpn=1``: the certificate for a tls-alpn-01 challenge."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2
import pytest

from ssl_cert_server.challenges.tlsalpn01 import TlsAlpn01Responder
from tests.unit.http.support import Site


@pytest.fixture
async def site() -> Site:
    return Site()


@pytest.fixture
async def responder(site: Site) -> TlsAlpn01Responder:
    return TlsAlpn01Responder(site.storage, site.clock)


@pytest.fixture
async def client(site: Site, responder: TlsAlpn01Responder) -> AsyncIterator[httpx2.AsyncClient]:
    app = site.application(tls_alpn01=responder).app
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://server") as client:
        yield client


async def test_gives_the_certificate_as_the_protocol_says(
    responder: TlsAlpn01Responder, client: httpx2.AsyncClient
) -> None:
    await responder.present("a.com", "token", "token.thumbprint")
    certificate = await responder.answer("a.com")
    assert certificate is not None
    response = await client.get("/cert/a.com?alpn=1")
    assert response.status_code == 200
    assert dict(response.headers) == {
        "content-type": "application/json",
        "content-length": str(len(response.content)),
        "cache-control": "no-store",
    }
    assert response.json() == {
        "type": 101,
        "cert": certificate.chain_pem.decode(),
        "pkey": certificate.key_pem.decode(),
        "fingerprint": "",
        "expire_at": 0,
        "ttl": 0,
    }


async def test_a_name_needs_no_permission_and_no_certificate(
    site: Site, responder: TlsAlpn01Responder, client: httpx2.AsyncClient
) -> None:
    await responder.present("not.permitted.net", "token", "token.thumbprint")
    assert (await client.get("/cert/not.permitted.net?alpn=1")).status_code == 200
    assert site.acme.asked == []


@pytest.mark.parametrize("path", ["A.Com", "a.com.", "%61.com"])
async def test_every_spelling_of_a_name_is_one_name(
    responder: TlsAlpn01Responder, client: httpx2.AsyncClient, path: str
) -> None:
    await responder.present("a.com", "token", "token.thumbprint")
    assert (await client.get(f"/cert/{path}?alpn=1")).json()["type"] == 101


@pytest.mark.parametrize("path", ["192.0.2.1", "1.2.0.192.in-addr.arpa", "1.2.0.192.IN-ADDR.ARPA."])
async def test_an_address_is_asked_for_as_it_is_or_as_it_stands_in_sni(
    responder: TlsAlpn01Responder, client: httpx2.AsyncClient, path: str
) -> None:
    await responder.present("192.0.2.1", "token", "token.thumbprint")
    assert (await client.get(f"/cert/{path}?alpn=1")).json()["type"] == 101


async def test_none_is_pending_before_and_after(responder: TlsAlpn01Responder, client: httpx2.AsyncClient) -> None:
    refusal = (400, "no tls-alpn-01 challenge is pending for a.com\n")
    response = await client.get("/cert/a.com?alpn=1")
    assert (response.status_code, response.text) == refusal
    await responder.present("a.com", "token", "token.thumbprint")
    await responder.cleanup("a.com", "token")
    response = await client.get("/cert/a.com?alpn=1")
    assert (response.status_code, response.text) == refusal


async def test_a_name_with_a_challenge_still_has_its_own_certificate(
    responder: TlsAlpn01Responder, client: httpx2.AsyncClient
) -> None:
    await responder.present("a.com", "token", "token.thumbprint")
    for query in ("", "?alpn=0", "?alpn=", "?ALPN=1"):
        assert (await client.get(f"/cert/a.com{query}")).json()["type"] == 0


@pytest.mark.parametrize("name", ["", "a..com", "*.a.com", "a%00.com", "%0a", "..%2F..%2Fkey", "a" * 5000])
async def test_a_hostile_name_is_400_in_one_line(client: httpx2.AsyncClient, name: str) -> None:
    response = await client.get(f"/cert/{name}?alpn=1")
    assert response.status_code == 400
    assert response.text.startswith("invalid ")
    assert response.text.count("\n") == 1


async def test_storage_that_fails_is_500_without_the_reason(
    site: Site, responder: TlsAlpn01Responder, client: httpx2.AsyncClient
) -> None:
    site.storage.break_down("get")
    response = await client.get("/cert/a.com?alpn=1")
    assert response.status_code == 500
    assert "disk" not in response.text


async def test_where_it_is_disabled_none_is_pending(site: Site) -> None:
    await TlsAlpn01Responder(site.storage, site.clock).present("a.com", "token", "token.thumbprint")
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=site.app), base_url="http://server") as client:
        assert (await client.get("/cert/a.com?alpn=1")).status_code == 400
