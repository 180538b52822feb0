"""The other sources of certificates: the predecessor's directory, managed, self-signed, and the local CA."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from cryptography import x509

from ssl_cert_server.model import Certificate
from ssl_cert_server.pki.signing import Validity, make_root, self_sign, sign_leaf
from tests.support.pebble import Pebble
from tests.support.ports import free_port
from tests.support.process import Process
from tests.support.server import CertServer, Reply, acme_config
from tests.support.verify import verified_leaf
from tests.support.waiting import wait_until

DAY = 86_400


def certificate(name: str, *, starts_in: float = -DAY, days: int = 90) -> tuple[Certificate, bytes]:
    """A certificate as another CA would have issued it, and its root's PEM."""
    start = int(time.time() + starts_in)
    root = make_root("Some other CA", Validity(start - DAY, start + 3650 * DAY))
    return sign_leaf(root, name, Validity(start, start + days * DAY)), root.chain_pem


@pytest.mark.parametrize("rsa", [False, True])
def test_a_directory_of_the_predecessor_is_taken_over_and_nothing_is_issued_again(
    tmp_path: Path, pebble: Pebble, http_port: int, rsa: bool
) -> None:
    config = acme_config(
        pebble.directory_url, pebble.ca_bundle, re_patterns=[r".+\.example\.com"], lets_encrypt={"force_rsa": rsa}
    )
    server = CertServer(tmp_path / "server", config, port=http_port)
    # As Go's autocert wrote it: 0600 in 0700, the key's block first, then the chain.
    server.directory.mkdir(mode=0o700)
    issued = {name: make_with_openssl(tmp_path, name, rsa=rsa) for name in ("a.example.com", "b.example.com")}
    for name, pem in issued.items():
        path = server.directory / (f"{name}+rsa" if rsa else name)
        path.write_bytes(pem)
        path.chmod(0o600)
    with server:
        for name, pem in issued.items():
            reply = server.cert(name)
            assert reply.status == 200
            assert (reply.json["pkey"] + reply.json["cert"]).encode() == pem
    assert pebble.order_count() == 0
    assert {name: server.stored()[f"{name}+rsa" if rsa else name] for name in issued} == issued


def make_with_openssl(folder: Path, name: str, *, rsa: bool) -> bytes:
    """A key and a certificate in the forms that the predecessor wrote, made by a program that isn't ours."""
    key, cert = folder / "k.pem", folder / "c.pem"
    generate = ["genrsa", "-traditional", "2048"] if rsa else ["ecparam", "-name", "prime256v1", "-genkey", "-noout"]
    with key.open("wb") as file:
        subprocess.run(["openssl", *generate], stdout=file, stderr=subprocess.DEVNULL, check=True)
    request: list[str | Path] = [
        "openssl",
        "req",
        "-x509",
        "-key",
        key,
        "-out",
        cert,
        "-days",
        "80",
        "-subj",
        f"/CN={name}",
    ]
    subprocess.run([*request, "-addext", f"subjectAltName=DNS:{name}"], check=True)
    return key.read_bytes() + cert.read_bytes()


def test_what_is_written_has_the_predecessors_form(tmp_path: Path, pebble: Pebble, http_port: int) -> None:
    config = acme_config(pebble.directory_url, pebble.ca_bundle, domains=["site1.example.com"])
    with CertServer(tmp_path / "server", config, port=http_port) as server:
        reply = server.cert("site1.example.com")
        stored = server.stored()["site1.example.com"].decode()
        assert stored == reply.json["pkey"] + reply.json["cert"]
        assert stored.startswith("-----BEGIN EC PRIVATE KEY-----\n")
        path = server.directory / "site1.example.com"
        assert path.stat().st_mode & 0o777 == 0o600
        assert server.directory.stat().st_mode & 0o777 == 0o700
        key = subprocess.run(["openssl", "ec", "-in", path, "-noout", "-check"], capture_output=True, check=True)
        assert b"EC Key valid" in key.stderr


def test_a_managed_certificate_is_replaced_while_the_server_runs_and_a_bad_one_refused(tmp_path: Path) -> None:
    config = {"managed": [{"pattern": r"(www\.)?managed\.example", "cert_key": "managed.example"}]}
    server = CertServer(tmp_path / "server", config)
    server.directory.mkdir(mode=0o700)
    file = server.directory / "managed.example"
    first, root = certificate("managed.example")
    second, _ = certificate("managed.example")
    expired, _ = certificate("managed.example", starts_in=-100 * DAY)
    not_yet, _ = certificate("managed.example", starts_in=DAY)
    file.write_bytes(first.stored)

    def served() -> str:
        return str(server.cert("managed.example").json["fingerprint"])

    with server:
        reply = server.cert("managed.example")
        verified_leaf(reply, "managed.example", root)
        assert reply.json["type"] == 1
        assert served() == first.fingerprint
        file.write_bytes(second.stored)
        wait_until(lambda: served() == second.fingerprint)
        bad = {
            "does not belong": first.key_pem + second.chain_pem,
            "is expired": expired.stored,
            "not valid yet": not_yet.stored,
            "no private key": second.chain_pem,
            "nothing under this key": b"",
        }
        for reason, content in bad.items():
            file.write_bytes(content)
            wait_until(lambda reason=reason: reason in server.log)  # type: ignore[misc]
            assert served() == second.fingerprint
        file.write_bytes(first.stored)
        wait_until(lambda: served() == first.fingerprint)
        assert server.cert("www.managed.example").status == 200
        assert server.cert("managed.example.attacker.net").status == 400
        assert "PRIVATE KEY" not in server.log


def test_self_signed_answers_what_nothing_else_does(tmp_path: Path) -> None:
    config = {"self_signed": {"enable": True, "check_sni": True, "valid_days": 30, "organization": ["Example Org"]}}
    with CertServer(tmp_path / "server", config) as server:
        reply = server.cert("anything.example.org")
        assert (reply.status, reply.json["type"]) == (200, 100)
        leaf = x509.load_pem_x509_certificate(reply.json["cert"].encode())
        assert leaf.subject.rfc4514_string() == "O=Example Org"
        assert server.cert("other.example.net").json["fingerprint"] == reply.json["fingerprint"]
        assert server.cert("dotless").status == 400
        assert "self_signed" in server.stored()
        server.kill()
        server.start()
        assert server.cert("anything.example.org").json["fingerprint"] == reply.json["fingerprint"]


def test_an_existing_self_signed_certificate_is_taken_over(tmp_path: Path) -> None:
    server = CertServer(tmp_path / "server", {"self_signed": {"enable": True}})
    server.directory.mkdir(mode=0o700)
    existing = self_sign(["Predecessor"], [], Validity.days_from(time.time(), 100))
    (server.directory / "self_signed").write_bytes(existing.stored)
    with server:
        assert server.cert("a.example").json["fingerprint"] == existing.fingerprint


def test_the_local_cas_root_makes_its_certificates_trusted(tmp_path: Path) -> None:
    with CertServer(tmp_path / "server", {"local_ca": {"enable": True}}) as server:
        reply = server.cert("app.internal")
        command: list[str | Path] = [
            sys.executable,
            "-m",
            "ssl_cert_server",
            "local-ca",
            "root",
            "-c",
            server.config_file,
        ]
        root = subprocess.run(command, capture_output=True, check=True, cwd=tmp_path).stdout
        verified_leaf(reply, "app.internal", root)
        assert reply.json["type"] == 100
        curl_accepts(tmp_path, reply, "app.internal", root)
        assert server.cert("app.example.com").status == 400


def curl_accepts(folder: Path, reply: Reply, name: str, root: bytes) -> None:
    """Serve with the answer from openssl, and visit with curl, which trusts nothing but the root."""
    port = free_port()
    (folder / "leaf.pem").write_text(reply.json["cert"])
    (folder / "leaf.key").write_text(reply.json["pkey"])
    (folder / "root.pem").write_bytes(root)
    serve = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-www", "-quiet"]
    with Process([*serve, "-cert", folder / "leaf.pem", "-key", folder / "leaf.key"], folder / "s_server.log") as tls:
        tls.wait_for_port(port)
        visit: list[str | Path] = [
            "curl",
            "-sS",
            "--cacert",
            folder / "root.pem",
            "--resolve",
            f"{name}:{port}:127.0.0.1",
        ]
        subprocess.run([*visit, f"https://{name}:{port}/"], capture_output=True, check=True, timeout=60)
