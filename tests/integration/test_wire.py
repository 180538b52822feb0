"""The wire protocol as a program of another language meets it, and the fast lane beside the ordinary way."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.pebble import Pebble
from tests.support.server import CertServer, acme_config

FETCH = Path(__file__).parents[2] / "examples" / "shell" / "fetch-certificate"


def fetch(server: CertServer, name: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(FETCH), f"http://127.0.0.1:{server.port}", name, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize("rsa", [False, True])
def test_curl_and_openssl_can_use_an_answer_field_by_field(
    tmp_path: Path, pebble: Pebble, http_port: int, rsa: bool
) -> None:
    config = acme_config(
        pebble.directory_url, pebble.ca_bundle, domains=["site1.example.com"], lets_encrypt={"force_rsa": rsa}
    )
    with CertServer(tmp_path / "server", config, port=http_port) as server:
        done = fetch(server, "site1.example.com", tmp_path / "out")
        assert (done.returncode, done.stderr) == (0, "")
        assert 3540 <= int((tmp_path / "out" / "ttl").read_text()) <= 3600
        assert (tmp_path / "out" / "key.pem").stat().st_mode & 0o777 == 0o600
        root = tmp_path / "root.pem"
        root.write_bytes(pebble.root_certificate())
        chain = tmp_path / "out" / "chain.pem"
        verify: list[str | Path] = ["openssl", "verify", "-x509_strict", "-CAfile", root, "-untrusted", chain]
        subprocess.run([*verify, "-verify_hostname", "site1.example.com", chain], check=True, capture_output=True)
        refused = fetch(server, "other.example.com", tmp_path / "other")
        assert refused.returncode != 0
        assert "400" in refused.stderr


def raw(server: CertServer, request: bytes, answers: int = 1) -> list[bytes]:
    """The answers to bytes on a connection of their own: so many, or as many as come before it is closed."""
    received: list[bytes] = []
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(request)
        with connection.makefile("rb") as stream:
            while len(received) < answers:
                head = b"".join(iter(stream.readline, b"\r\n"))
                if not head:
                    break
                length = re.search(rb"(?i)^content-length: (\d+)", head, re.MULTILINE)
                received.append(head + b"\r\n" + stream.read(int(length.group(1)) if length else 0))
    return received


def parts(answer: bytes) -> tuple[bytes, set[bytes], bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *headers = head.split(b"\r\n")
    return status, {header for header in headers if not header.startswith(b"date:")}, body


@pytest.fixture
def hot(tmp_path: Path) -> Iterator[CertServer]:
    """A server with one name in memory."""
    with CertServer(tmp_path / "server", {"local_ca": {"enable": True}}) as server:
        server.cert("hot.test")
        yield server


def test_the_fast_lane_answers_as_the_ordinary_way_does(hot: CertServer) -> None:
    [fast] = raw(hot, b"GET /cert/hot.test HTTP/1.1\r\nHost: x\r\n\r\n")
    # A query sends the very same question the ordinary way.
    [ordinary] = raw(hot, b"GET /cert/hot.test?x=1 HTTP/1.1\r\nHost: x\r\n\r\n")
    assert parts(fast) == parts(ordinary)
    assert b"\r\ndate: " in fast


def test_pipelined_requests_are_answered_in_their_order(hot: CertServer) -> None:
    question = b"GET /cert/hot.test HTTP/1.1\r\nHost: x\r\n\r\n"
    bad = b"GET /cert/not_a_name HTTP/1.1\r\nHost: x\r\n\r\n"
    answers = raw(hot, question + bad + question + bad, answers=4)
    assert [answer.split(b" ")[1] for answer in answers] == [b"200", b"400", b"200", b"400"]


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS hello
        b"GET /cert/\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://[::1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /cert/" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /cert/hot.test HTTP/1.1\r\n" + b"X-Long: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET /cert/hot.test HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 20_000,
        b"POST /cert/hot.test HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + b"a" * 200_000,
        b"\0" * 1000,
        os.urandom(1000),
    ],
)
def test_whatever_a_stranger_sends_is_refused_and_leaves_no_traceback(hot: CertServer, request_bytes: bytes) -> None:
    answers: list[bytes] = []
    with suppress(ConnectionError):
        answers = raw(hot, request_bytes + b"\r\n\r\n")
    for answer in answers:
        assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 405 "))
    assert hot.cert("hot.test").status == 200
    assert "Traceback" not in hot.log
