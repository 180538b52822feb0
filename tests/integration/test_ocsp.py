"""Staples from a real CA's leaves and ``openssl ocsp``, through the server, over restarts and all that goes wrong."""

from __future__ import annotations

import datetime
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509 import ocsp

from tests.integration.conftest import StartPebble
from tests.support.ocsp_ca import OcspCa, make_ca
from tests.support.ocsp_responder import OcspResponder
from tests.support.pebble import Pebble
from tests.support.server import CertServer, Reply, acme_config
from tests.support.verify import verified_leaf
from tests.support.waiting import wait_until

NAME = "site1.example.com"
NAMES = [NAME, "site2.example.com", "site3.example.com"]


@pytest.fixture
def responder(tmp_path: Path) -> Iterator[OcspResponder]:
    with OcspResponder(tmp_path / "responder") as responder:
        yield responder


@pytest.fixture
def ca(start_pebble: StartPebble, http_port: int, responder: OcspResponder) -> Pebble:
    """Pebble, whose intermediate the responder speaks for."""
    pebble = start_pebble(http_port=http_port, key_algorithm="rsa", ocsp_url=responder.url)
    issuer = pebble.intermediate_certificate()
    responder.serve(issuer, issuer, pebble.intermediate_key())
    return pebble


@pytest.fixture
def server(tmp_path: Path, ca: Pebble, http_port: int) -> Iterator[CertServer]:
    config = acme_config(ca.directory_url, ca.ca_bundle, domains=NAMES)
    with CertServer(tmp_path / "server", config, port=http_port) as server:
        yield server
        assert "Traceback" not in server.log


def staple(server: CertServer, cert: Reply, name: str = NAME) -> Reply:
    return server.get(f"/ocsp/{name}?fp={cert.json['fingerprint']}")


def serial(cert: Reply) -> int:
    return x509.load_pem_x509_certificates(cert.json["cert"].encode())[0].serial_number


def check_with_openssl(cert: Reply, response: bytes, root: bytes, folder: Path) -> str:
    """What openssl, which shares no code with the server, makes of a staple."""
    leaf, *chain = cert.json["cert"].split("-----END CERTIFICATE-----\n")[:-1]
    end = "-----END CERTIFICATE-----\n"
    (folder / "leaf.pem").write_text(leaf + end)
    (folder / "issuer.pem").write_text(chain[0] + end)
    (folder / "root.pem").write_bytes(root)
    (folder / "response.der").write_bytes(response)
    command: list[str | Path] = [
        "openssl",
        "ocsp",
        "-respin",
        folder / "response.der",
        "-issuer",
        folder / "issuer.pem",
        "-sha256",
    ]
    command += ["-cert", folder / "leaf.pem", "-CAfile", folder / "root.pem"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "Response verify OK" in done.stderr
    return done.stdout


def test_a_staple_is_there_right_after_the_certificate_and_outlives_a_restart(
    tmp_path: Path, server: CertServer, ca: Pebble, responder: OcspResponder
) -> None:
    cert = server.cert(NAME)
    wait_until(lambda: staple(server, cert).status == 200)
    reply = staple(server, cert)
    assert reply.headers["content-type"] == "application/ocsp-response"
    assert 0 < int(reply.headers["x-expire-at"]) - time.time() <= 3600
    assert 0 < int(reply.headers["x-ttl"]) <= 3600
    assert ": good\n" in check_with_openssl(cert, reply.body, ca.root_certificate(), tmp_path)
    assert server.get(f"/ocsp/{NAME}?fp={'0' * 40}").status == 204
    assert server.get(f"/ocsp/{NAME}").body == reply.body
    responder.stop()
    server.stop()
    server.start()
    assert staple(server, cert).body == reply.body
    assert responder.asked == [serial(cert)]


def test_it_is_replaced_before_it_expires_and_follows_what_the_responder_says(
    server: CertServer, ca: Pebble, responder: OcspResponder
) -> None:
    responder.minutes = 1
    good, revoked, unknown = (server.cert(name) for name in NAMES)
    for name, cert in zip(NAMES, (good, revoked, unknown), strict=True):
        wait_until(lambda name=name, cert=cert: staple(server, cert, name).status == 200)  # type: ignore[misc]
    first = staple(server, good)
    responder.revoked.add(serial(revoked))
    responder.unknown.add(serial(unknown))
    seen = []

    def changed() -> bool:
        seen.append(staple(server, good))
        return seen[-1].body != first.body

    wait_until(changed, seconds=120)
    assert {reply.status for reply in seen} == {200}, "there was one all the time"
    assert int(seen[-1].headers["x-expire-at"]) > int(first.headers["x-expire-at"])
    wait_until(lambda: staple(server, unknown, NAMES[2]).status == 204, seconds=120)
    assert server.cert(NAMES[2]).json["fingerprint"] == unknown.json["fingerprint"]
    wait_until(lambda: server.cert(NAMES[1]).json["fingerprint"] != revoked.json["fingerprint"], seconds=120)
    replaced = server.cert(NAMES[1])
    verified_leaf(replaced, NAMES[1], ca.root_certificate())
    assert replaced.json["pkey"] != revoked.json["pkey"]
    assert staple(server, revoked, NAMES[1]).status == 204
    wait_until(lambda: staple(server, replaced, NAMES[1]).status == 200)
    assert ca.order_count() == 4


def test_instances_of_one_storage_ask_once(
    tmp_path: Path, server: CertServer, ca: Pebble, responder: OcspResponder
) -> None:
    config = acme_config(ca.directory_url, ca.ca_bundle, domains=NAMES)
    with CertServer(tmp_path / "peer", config, directory=server.directory) as peer:
        certs = {name: server.cert(name) for name in NAMES}
        for name, cert in certs.items():
            for instance in (server, peer):
                wait_until(lambda i=instance, n=name, c=cert: staple(i, c, n).status == 200)  # type: ignore[misc]
                assert staple(instance, cert, name).body == staple(server, cert, name).body
    assert sorted(responder.asked) == sorted(serial(cert) for cert in certs.values())


def signature(body: bytes) -> bytes:
    return ocsp.load_der_ocsp_response(body).signature


GARBAGE = b"<html>it works!</html>"
MISBEHAVIOURS = {
    "garbage": lambda _: (200, GARBAGE),
    "huge": lambda body: (200, body + b"\0" * 10_000_000),
    "status 500": lambda body: (500, body),
    "cut off": lambda body: (200, body[:-20]),
    "unauthorized": lambda _: (200, b"\x30\x03\x0a\x01\x06"),
    "another's signature": lambda body: (200, body.replace(signature(body), bytes(len(signature(body))))),
}


@pytest.mark.parametrize("kind", MISBEHAVIOURS)
def test_a_broken_responder_costs_the_staple_and_nothing_else(
    server: CertServer, responder: OcspResponder, kind: str
) -> None:
    responder.misbehave = MISBEHAVIOURS[kind]
    cert = server.cert(NAME)
    assert cert.status == 200
    wait_until(lambda: "event=ocsp.failed" in server.log)
    assert staple(server, cert).status == 204
    assert len(responder.asked) <= 2, "by each hash once"


@pytest.mark.parametrize(
    ("serial_off_by", "age", "words"), [(1, 0, "about another certificate"), (0, 7200, "out of date")]
)
def test_an_answer_signed_by_the_right_key_is_still_looked_at(
    server: CertServer, ca: Pebble, responder: OcspResponder, serial_off_by: int, age: int, words: str
) -> None:
    issuer = x509.load_pem_x509_certificate(ca.intermediate_certificate())
    key = load_pem_private_key(ca.intermediate_key(), None)

    def say(body: bytes) -> tuple[int, bytes]:
        right = ocsp.load_der_ocsp_response(body)
        then = right.this_update_utc - datetime.timedelta(seconds=age)
        single = ocsp.OCSPResponseBuilder().add_response_by_hash(
            right.issuer_name_hash,
            right.issuer_key_hash,
            right.serial_number + serial_off_by,
            right.hash_algorithm,
            ocsp.OCSPCertStatus.GOOD,
            then,
            then + datetime.timedelta(hours=1),
            None,
            None,
        )
        said = single.responder_id(ocsp.OCSPResponderEncoding.HASH, issuer).sign(key, hashes.SHA256())  # type: ignore[arg-type]
        return 200, said.public_bytes(Encoding.DER)

    responder.misbehave = say
    cert = server.cert(NAME)
    wait_until(lambda: "event=ocsp.failed" in server.log)
    assert words in server.log
    assert staple(server, cert).status == 204
    responder.misbehave = None
    wait_until(lambda: staple(server, cert).status == 200, seconds=150)  # a minute and a half later


def test_a_slow_responder_is_waited_for_by_nobody(server: CertServer, responder: OcspResponder) -> None:
    asleep = []

    def sleep(body: bytes) -> tuple[int, bytes]:
        asleep.append(True)
        while asleep:
            time.sleep(0.05)
        return 200, body

    responder.misbehave = sleep
    cert = server.cert(NAME)
    wait_until(lambda: asleep)
    for _ in range(20):
        assert staple(server, cert).status == 204
        assert server.cert(NAME).status == 200
    assert asleep, "all that while it slept"
    asleep.clear()
    wait_until(lambda: staple(server, cert).status == 200, seconds=150)  # at the second try, where it slept too long


@pytest.mark.parametrize("delegated", [False, True])
def test_a_managed_certificate_without_its_chain_is_stapled_by_a_delegate(
    tmp_path: Path, responder: OcspResponder, delegated: bool
) -> None:
    now = time.time()
    pair = make_ca(start=now - 1000)
    ca = OcspCa(pair, urls=[responder.url], issuer_urls=[responder.issuer_url])
    leaf = ca.leaf("shop.example.com", start=now - 500, end=now + 86_400, with_chain=False)
    signer = ca.delegate(start=now - 500, end=now + 3600) if delegated else pair
    responder.serve(pair.pem, signer.pem, signer.key_pem)
    storage = tmp_path / "storage"
    storage.mkdir(mode=0o700)
    (storage / "shop").write_bytes(leaf.stored)
    config = {"managed": [{"pattern": r"shop\.example\.com", "cert_key": "shop"}]}
    with CertServer(tmp_path / "server", config, directory=storage) as server:
        cert = server.cert("shop.example.com")
        assert cert.json["type"] == 1
        wait_until(lambda: staple(server, cert, "shop.example.com").status == 200)
        assert responder.asked == [serial(cert)]
