"""Names that have an ECDSA and an RSA certificate: each client gets the one it can use, with that one's staple."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric import rsa as rsa_keys
from cryptography.x509 import ocsp

from tests.integration.openresty.promptness import within_a_second
from tests.support.nginx import TEMPLATE, CheckedNginx
from tests.support.stand_in import Answer, Pair, Request, StandIn, Staple, json_answer, make_pair
from tests.support.staples import hello
from tests.support.visitors import LIMIT, NAME, quickly, until

ECDSA_SCHEMES, RSA_SCHEMES = b"\x04\x03", b"\x08\x04\x04\x01"
CERTIFICATE = 11


def both(server: StandIn, name: str = NAME) -> tuple[Pair, Pair]:
    """Give the name two certificates, of which the server shows the ECDSA one unless it is asked for the other."""
    server.pairs[name], server.others[name] = make_pair(name), make_pair(name, use_rsa=True)
    return server.pairs[name], server.others[name]


def both_of(server: StandIn, name: str = NAME) -> tuple[Pair, Pair]:
    return server.pairs[name], server.others[name]


async def shown(port: int, schemes: bytes) -> bytes | None:
    """The leaf for a client that knows these signature schemes; None if there is none for it."""
    message = (await hello(port, schemes=schemes)).get(CERTIFICATE)
    if message is None:
        return None
    return message[6 : 6 + int.from_bytes(message[3:6], "big")]


async def until_shown(port: int, schemes: bytes, der: bytes | None) -> None:
    async with asyncio.timeout(LIMIT):
        while True:
            if await shown(port, schemes) == der:
                return
            await asyncio.sleep(0.1)


async def test_each_client_gets_the_certificate_it_can_use(prefix: Path) -> None:
    async with StandIn() as server, CheckedNginx(prefix, backend=server.backend, workers=3) as nginx:
        ecdsa, rsa = both(server)
        assert await shown(nginx.https_port, ECDSA_SCHEMES) == ecdsa.der
        await until_shown(nginx.https_port, RSA_SCHEMES, rsa.der)
        await asyncio.sleep(1.2)
        for _ in range(20):
            assert await shown(nginx.https_port, RSA_SCHEMES) == rsa.der
            assert await shown(nginx.https_port, ECDSA_SCHEMES) == ecdsa.der
        assert server.paths == [f"/cert/{NAME}", f"/cert/{NAME}?keytype=rsa"]


async def test_the_other_key_type_holds_nobody_up(prefix: Path) -> None:
    async with StandIn() as server:
        ecdsa, rsa = both(server)
        release = asyncio.Event()

        async def other_when_released(request: Request) -> Answer:
            if "keytype" in request.path:
                await release.wait()
            return await server.usual(request)

        server.answer = other_when_released
        async with CheckedNginx(prefix, backend=server.backend) as nginx:
            for _ in range(20):
                assert await quickly(nginx.https_port) == ecdsa.der
            release.set()
            await until_shown(nginx.https_port, RSA_SCHEMES, rsa.der)


async def test_where_rsa_comes_first_ecdsa_is_the_other(prefix: Path) -> None:
    async with StandIn() as server, CheckedNginx(prefix, backend=server.backend) as nginx:
        server.others[NAME], server.pairs[NAME] = make_pair(NAME), make_pair(NAME, use_rsa=True)
        assert await quickly(nginx.https_port) == server.pairs[NAME].der
        await until_shown(nginx.https_port, ECDSA_SCHEMES, server.others[NAME].der)
        assert server.paths[1] == f"/cert/{NAME}?keytype=ecdsa"


async def test_both_are_refreshed_each_with_its_own_tag(prefix: Path) -> None:
    async with StandIn() as server, CheckedNginx(prefix, backend=server.backend) as nginx:
        server.ttl = 1
        ecdsa, rsa = both(server)
        await quickly(nginx.https_port)
        await until_shown(nginx.https_port, RSA_SCHEMES, rsa.der)
        await asyncio.sleep(2)
        await until_shown(nginx.https_port, RSA_SCHEMES, rsa.der)

        def tags(path: str) -> set[str | None]:
            return {request.headers.get("if-none-match") for request in server.requests if request.path == path}

        await until(lambda: tags(f"/cert/{NAME}") == {None, f'"{ecdsa.fingerprint}"'})
        await until(lambda: tags(f"/cert/{NAME}?keytype=rsa") == {None, f'"{rsa.fingerprint}"'})
        renewed = server.others[NAME] = make_pair(NAME, use_rsa=True)
        await until_shown(nginx.https_port, RSA_SCHEMES, renewed.der)


async def test_a_changed_name_has_both_renewed_within_a_second(prefix: Path) -> None:
    async with StandIn(changes=True) as server, CheckedNginx(prefix, backend=server.backend) as nginx:
        _, rsa = both(server)
        await quickly(nginx.https_port)
        await until_shown(nginx.https_port, RSA_SCHEMES, rsa.der)
        await until(lambda: any("since=0" in poll.path for poll in server.polls))

        def change() -> None:
            both(server)
            server.announce(NAME)

        async def in_use() -> bool:
            seen = [await shown(nginx.https_port, schemes) for schemes in (ECDSA_SCHEMES, RSA_SCHEMES) * 10]
            return seen == [pair.der for pair in both_of(server)] * 10

        await within_a_second(change, in_use, rest=2.5)


async def test_a_name_that_is_left_with_one_key_type_is_served_with_that_alone(prefix: Path) -> None:
    async with StandIn(changes=True) as server, CheckedNginx(prefix, backend=server.backend) as nginx:
        ecdsa, rsa = both(server)
        await quickly(nginx.https_port)
        await until_shown(nginx.https_port, RSA_SCHEMES, rsa.der)
        await until(lambda: any("since=0" in poll.path for poll in server.polls))
        await asyncio.sleep(2.5)
        del server.others[NAME]
        server.announce(NAME)
        await until_shown(nginx.https_port, RSA_SCHEMES, None)
        assert await quickly(nginx.https_port) == ecdsa.der


@pytest.mark.parametrize("wrong", ["the same key type", "another's key", "500"])
async def test_a_wrong_answer_about_the_other_leaves_the_first_in_service(prefix: Path, wrong: str) -> None:
    async with StandIn() as server:
        ecdsa, rsa = both(server)

        async def answer(request: Request) -> Answer:
            if "keytype" not in request.path:
                return await server.usual(request)
            if wrong == "500":
                return Answer(500)
            return json_answer(ecdsa.answer() if wrong == "the same key type" else rsa.answer(pkey=ecdsa.key_pem))

        server.answer = answer
        async with CheckedNginx(prefix, backend=server.backend, options="failure_ttl = 1,") as nginx:
            await quickly(nginx.https_port)
            await until(lambda: len(server.requests) > 1)
            await asyncio.sleep(0.5)
            assert await shown(nginx.https_port, RSA_SCHEMES) is None
            assert await quickly(nginx.https_port) == ecdsa.der
            server.answer = server.usual
            await until_shown(nginx.https_port, RSA_SCHEMES, rsa.der)


# Staples


def real_staple(pair: Pair) -> Staple:
    """An OCSP response about the certificate, from its own key."""
    certificate = x509.load_der_x509_certificate(pair.der)
    key = serialization.load_pem_private_key(pair.key_pem.encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey | rsa_keys.RSAPrivateKey)
    now = dt.datetime.now(dt.UTC)
    until = now + dt.timedelta(hours=1)
    response = (
        ocsp.OCSPResponseBuilder()
        .add_response(certificate, certificate, hashes.SHA1(), ocsp.OCSPCertStatus.GOOD, now, until, None, None)
        .responder_id(ocsp.OCSPResponderEncoding.HASH, certificate)
        .sign(key, hashes.SHA256())
    )
    return Staple(response.public_bytes(serialization.Encoding.DER), int(until.timestamp()))


def s_client(port: int, *options: str) -> tuple[int, int | None]:
    """The serial numbers of the certificate and of the one that the staple is about."""
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", NAME, "-status", *options]
    done = subprocess.run(command, input=b"", capture_output=True, timeout=60, check=False)
    text = done.stdout.decode(errors="replace")
    pem = text[text.index("-----BEGIN CERT") : text.index("-----END CERT")] + "-----END CERTIFICATE-----\n"
    stapled = re.search(r"OCSP Response Data:.*?Serial Number: (\w+)", text, re.DOTALL)
    return x509.load_pem_x509_certificate(pem.encode()).serial_number, int(stapled[1], 16) if stapled else None


async def until_seen(port: int, serial: int, *options: str) -> None:
    """Until such a client gets that certificate with its staple."""
    async with asyncio.timeout(LIMIT):
        while True:
            if await asyncio.to_thread(s_client, port, *options) == (serial, serial):
                return
            await asyncio.sleep(0.1)


ECDSA_FIRST = ("-sigalgs", "ecdsa_secp256r1_sha256:rsa_pss_rsae_sha256")
RSA_FIRST = ("-sigalgs", "rsa_pss_rsae_sha256:ecdsa_secp256r1_sha256")
P384_FIRST = ("-sigalgs", "ecdsa_secp384r1_sha384:rsa_pss_rsae_sha256:ecdsa_secp256r1_sha256")


async def test_the_staple_is_that_of_the_certificate_the_client_gets(prefix: Path) -> None:
    async with StandIn() as server, CheckedNginx(prefix, backend=server.backend, workers=1) as nginx:
        for pair in both(server):
            server.staples[pair.fingerprint] = real_staple(pair)
        await quickly(nginx.https_port)
        ecdsa, rsa = (x509.load_der_x509_certificate(pair.der).serial_number for pair in both_of(server))
        await until_seen(nginx.https_port, ecdsa, "-tls1_3", *ECDSA_FIRST)
        await until_seen(nginx.https_port, rsa, "-tls1_3", *RSA_FIRST)
        for options, serial in (
            (ECDSA_FIRST, ecdsa),
            (RSA_FIRST, rsa),
            (P384_FIRST, rsa),
            (("-sigalgs", "rsa_pss_rsae_sha512"), rsa),
            ((), ecdsa),
        ):
            seen = await asyncio.to_thread(s_client, nginx.https_port, "-tls1_3", *options)
            assert seen == (serial, serial), options
        # Before TLS 1.3 it can't be told beforehand which of the two it will be.
        assert await asyncio.to_thread(s_client, nginx.https_port, "-tls1_2") == (ecdsa, None)
        old = ("-tls1_2", "-sigalgs", "RSA+SHA256")
        assert await asyncio.to_thread(s_client, nginx.https_port, *old) == (rsa, None)


async def test_where_nginx_prefers_its_own_order_two_certificates_go_without_a_staple(prefix: Path) -> None:
    template = TEMPLATE.read_text().replace("ssl_protocols ", "ssl_prefer_server_ciphers on; ssl_protocols ")
    async with StandIn() as server:
        for pair in both(server):
            server.staples[pair.fingerprint] = real_staple(pair)
        async with CheckedNginx(prefix, backend=server.backend, template=template) as nginx:
            await quickly(nginx.https_port)
            await until(lambda: len(server.ocsp_requests) == 2)
            await asyncio.sleep(1.2)
            assert (await asyncio.to_thread(s_client, nginx.https_port, "-tls1_3"))[1] is None


async def test_a_real_staple_goes_through_unchanged(prefix: Path) -> None:
    async with StandIn() as server, CheckedNginx(prefix, backend=server.backend) as nginx:
        server.pairs[NAME] = make_pair(NAME)
        server.staples[server.pairs[NAME].fingerprint] = real_staple(server.pairs[NAME])
        await quickly(nginx.https_port)
        serial = x509.load_der_x509_certificate(server.pairs[NAME].der).serial_number
        for version in ("-tls1_2", "-tls1_3"):
            await until_seen(nginx.https_port, serial, version)
