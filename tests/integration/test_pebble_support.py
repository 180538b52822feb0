"""The CA of the integration tests does what they take for granted."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from tests.support.pebble import Pebble
from tests.support.process import Process


def directory(pebble: Pebble) -> dict[str, Any]:
    trust = ssl.create_default_context(cafile=str(pebble.ca_bundle))
    with urllib.request.urlopen(pebble.directory_url, timeout=60, context=trust) as response:
        content: dict[str, Any] = json.load(response)
    return content


def resolve(pebble: Pebble, name: str) -> tuple[int, bytes]:
    """The response code, and the whole response, to a question for an A record."""
    question = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + struct.pack(
        ">B2H", 0, 1, 1
    )
    host, port = pebble.dns_server.split(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(60)
        client.sendto(struct.pack(">6H", 1, 0x0100, 1, 0, 0, 0) + question, (host, int(port)))
        answer = client.recv(512)
    return answer[3] & 15, answer


def test_clients_that_trust_the_bundle_reach_the_directory(pebble: Pebble) -> None:
    assert {"newNonce", "newAccount", "newOrder", "revokeCert"} <= directory(pebble).keys()
    assert (pebble.account_count(), pebble.order_count(), pebble.certificate_count()) == (0, 0, 0)
    assert "reject 5% of good nonces" in pebble.log
    assert "authz reuse for each identifier 0% of the time" in pebble.log


def test_the_issuing_root_is_not_the_https_one(pebble: Pebble) -> None:
    issuing = x509.load_pem_x509_certificate(pebble.root_certificate())
    assert "Pebble Root CA" in issuing.subject.rfc4514_string()
    assert issuing != x509.load_pem_x509_certificate(pebble.ca_bundle.read_bytes())


def test_names_resolve_as_told(pebble: Pebble) -> None:
    no_error, server_failure = 0, 2
    code, answer = resolve(pebble, "a.example.com")
    assert code == no_error
    assert bytes([127, 0, 0, 1]) in answer
    pebble.add_servfail("a.example.com")
    assert resolve(pebble, "a.example.com")[0] == server_failure
    pebble.clear_servfail("a.example.com")
    pebble.set_addresses("a.example.com", ["127.0.0.9"])
    code, answer = resolve(pebble, "a.example.com")
    assert code == no_error
    assert bytes([127, 0, 0, 9]) in answer


def test_an_outage_ends_on_the_same_port(pebble: Pebble) -> None:
    url = pebble.directory_url
    pebble.stop()
    with pytest.raises(urllib.error.URLError):
        directory(pebble)
    pebble.start()
    assert pebble.directory_url == url
    assert directory(pebble)


def test_a_program_that_fails_tells_why(tmp_path: Path) -> None:
    with (
        Process([sys.executable, "-c", "raise SystemExit('no such luck')"], tmp_path / "log") as process,
        pytest.raises(RuntimeError, match=r"ended with 1(.|\n)*no such luck"),
    ):
        process.wait_for_port(1)


def test_programs_die_with_whoever_started_them(tmp_path: Path) -> None:
    starter = (
        "import os, pathlib, signal, sys, time; from tests.support.process import Process;"
        "p = Process(['sh', '-c', 'echo up; exec sleep 60'], pathlib.Path(sys.argv[1])); p.start();"
        "[time.sleep(0.01) for _ in range(6000) if not p.text]; print(p.pid, flush=True);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", starter, tmp_path / "log"], cwd=root, capture_output=True, text=True, check=False
    )
    child = Path("/proc", done.stdout.strip())
    deadline = time.monotonic() + 60
    while _alive(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _alive(child)


def _alive(process: Path) -> bool:
    try:
        return "State:\tZ" not in (process / "status").read_text()
    except OSError:
        return False
