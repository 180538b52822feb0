"""What a visitor of nginx sees, by ``openssl s_client``, with the real server, CA and responder behind it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.integration.conftest import StartPebble
from tests.support.nginx import Nginx
from tests.support.ocsp_responder import OcspResponder
from tests.support.server import CertServer, acme_config, ca_entry, cas_config
from tests.support.waiting import wait_until

GOOD, REVOKED, UNKNOWN = "site1.example.com", "site2.example.com", "site3.example.com"
NAMES = [GOOD, REVOKED, UNKNOWN]
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a handshake gave: the leaf, and the staple's ``Next Update`` where there was one."""

    leaf: x509.Certificate
    next_update: str | None

    @property
    def fingerprint(self) -> str:
        return self.leaf.fingerprint(hashes.SHA1()).hex()


def visit(port: int, name: str, root: Path, *more: str) -> Seen:
    """One handshake, with ``more`` options; openssl verifies the chain and what is stapled."""
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", name, "-status"]
    command += ["-CAfile", str(root), "-verify_return_error", "-verify_hostname", name, *more]
    done = subprocess.run(command, input="", capture_output=True, text=True, timeout=60, check=True)
    pem = _PEM.search(done.stdout.partition("Server certificate")[2])  # the staple holds its signer's
    assert pem is not None, done.stdout
    staple = done.stdout.partition("OCSP response:")[2]
    if "no response sent" in staple:
        return Seen(x509.load_pem_x509_certificate(pem[0].encode()), None)
    assert "Cert Status: good" in staple, staple
    found = re.search(r"Next Update: (.+)", staple)
    assert found is not None
    return Seen(x509.load_pem_x509_certificate(pem[0].encode()), found[1])


@dataclass(frozen=True, slots=True)
class Site:
    responder: OcspResponder
    server: CertServer
    nginx: Nginx
    root: Path

    def visit(self, name: str) -> Seen:
        return visit(self.nginx.https_port, name, self.root)


@pytest.fixture
def site(tmp_path: Path, start_pebble: StartPebble, http_port: int) -> Iterator[Site]:
    prefix = tmp_path / "nginx"
    prefix.mkdir()
    root = tmp_path / "root.pem"
    with OcspResponder(tmp_path / "responder") as responder:
        pebble = start_pebble(http_port=http_port, key_algorithm="rsa", ocsp_url=responder.url)
        issuer = pebble.intermediate_certificate()
        responder.serve(issuer, issuer, pebble.intermediate_key())
        root.write_bytes(pebble.root_certificate())
        config = acme_config(pebble.directory_url, pebble.ca_bundle, domains=NAMES)
        with (
            CertServer(tmp_path / "server", config, port=http_port) as server,
            Nginx(prefix, backend=f"127.0.0.1:{server.port}") as nginx,
        ):
            yield Site(responder, server, nginx, root)


def test_a_staple_is_there_stays_fresh_and_follows_what_the_responder_says(site: Site) -> None:
    site.responder.minutes = 1
    first = {name: site.visit(name) for name in NAMES}
    for name in NAMES:
        wait_until(lambda name=name: site.visit(name).next_update)  # type: ignore[misc]
    stapled = site.visit(GOOD)
    site.responder.revoked.add(first[REVOKED].leaf.serial_number)
    site.responder.unknown.add(first[UNKNOWN].leaf.serial_number)

    seen: list[Seen] = []

    def is_renewed() -> bool:
        seen.append(site.visit(GOOD))
        return seen[-1].next_update not in (None, stapled.next_update)

    wait_until(is_renewed, seconds=120)
    assert all(visited.next_update for visited in seen), "it is replaced before it expires"
    wait_until(lambda: site.visit(UNKNOWN).next_update is None, seconds=120)
    assert site.visit(UNKNOWN).fingerprint == first[UNKNOWN].fingerprint, "only the staple is gone"
    wait_until(lambda: site.visit(REVOKED).fingerprint != first[REVOKED].fingerprint, seconds=120)
    replaced = site.visit(REVOKED)
    assert replaced.leaf.public_key() != first[REVOKED].leaf.public_key()
    wait_until(lambda: site.visit(REVOKED).next_update)
    assert site.visit(GOOD).fingerprint == first[GOOD].fingerprint


def test_while_the_server_and_the_responder_are_down_what_was_stapled_is_stapled(site: Site) -> None:
    site.visit(GOOD)
    wait_until(lambda: site.visit(GOOD).next_update)
    before = site.visit(GOOD)
    site.responder.stop()
    site.server.stop()
    for _ in range(5):
        assert site.visit(GOOD) == before


def test_what_was_replaced_is_in_use_within_a_moment(site: Site) -> None:
    old = site.visit(GOOD).fingerprint
    done = site.server.command("revoke", GOOD, "--yes")
    assert done.returncode == 0, done.stderr
    # Its ttl is an hour: it is the news that counts.
    wait_until(lambda: {site.visit(GOOD).fingerprint for _ in range(4)}.isdisjoint({old}))


def test_each_visitor_gets_the_kind_of_key_that_it_knows(
    tmp_path: Path, start_pebble: StartPebble, http_port: int
) -> None:
    pebble = start_pebble(http_port=http_port)
    root, prefix = tmp_path / "root.pem", tmp_path / "nginx"
    root.write_bytes(pebble.root_certificate())
    prefix.mkdir()
    ca = ca_entry(pebble.directory_url, pebble.ca_bundle, key_type=["ecdsa-p256", "rsa-2048"])
    with (
        CertServer(tmp_path / "server", cas_config(ca, domains=[GOOD]), port=http_port) as server,
        Nginx(prefix, backend=f"127.0.0.1:{server.port}") as nginx,
    ):

        def key(*more: str) -> object:
            return visit(nginx.https_port, GOOD, root, *more).leaf.public_key()

        assert isinstance(key(), ec.EllipticCurvePublicKey)

        def has_rsa() -> bool:
            try:
                return isinstance(key("-sigalgs", "RSA-PSS+SHA256"), rsa.RSAPublicKey)
            except subprocess.CalledProcessError:
                return False  # only the first kind is here so far

        wait_until(has_rsa)
        assert isinstance(key("-sigalgs", "ECDSA+SHA256"), ec.EllipticCurvePublicKey)
        assert isinstance(key("-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"), rsa.RSAPublicKey)
        assert pebble.order_count() == 2
