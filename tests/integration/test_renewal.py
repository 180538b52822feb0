"""Certificates that live for seconds, renewed behind the back of those who use them."""

from __future__ import annotations

import time
from pathlib import Path

from tests.integration.conftest import StartPebble
from tests.support.server import CertServer, acme_config
from tests.support.verify import verified_leaf

LIFETIME = 12
DEADLINE = 90


def test_a_certificate_is_renewed_while_the_old_one_is_served(
    tmp_path: Path, start_pebble: StartPebble, http_port: int
) -> None:
    pebble = start_pebble(http_port=http_port, validity_seconds=LIFETIME, retry_after=0)
    config = acme_config(pebble.directory_url, pebble.ca_bundle, domains=["site1.example.com"])
    with CertServer(tmp_path / "server", config, port=http_port) as server:
        fingerprints = [server.cert("site1.example.com").json["fingerprint"]]
        end = time.monotonic() + DEADLINE
        while len(fingerprints) < 4 and time.monotonic() < end:
            reply = server.cert("site1.example.com")
            verified_leaf(reply, "site1.example.com", pebble.root_certificate())
            assert reply.json["ttl"] == 0  # within the last minute of its life
            if reply.json["fingerprint"] not in fingerprints:
                fingerprints.append(reply.json["fingerprint"])
            time.sleep(0.2)
    assert len(fingerprints) == 4
    assert pebble.account_count() == 1


def test_what_was_issued_before_a_restart_is_renewed_after_it_unasked(
    tmp_path: Path, start_pebble: StartPebble, http_port: int
) -> None:
    pebble = start_pebble(http_port=http_port, validity_seconds=LIFETIME, retry_after=0)
    config = acme_config(pebble.directory_url, pebble.ca_bundle, domains=["site1.example.com"])
    with CertServer(tmp_path / "server", config, port=http_port) as server:
        server.cert("site1.example.com")
        server.stop()
        before = server.stored()["site1.example.com"]
        server.start()
        end = time.monotonic() + DEADLINE
        while server.stored()["site1.example.com"] == before and time.monotonic() < end:
            time.sleep(0.2)
        assert server.stored()["site1.example.com"] != before


def test_a_ca_outage_at_renewal_is_outlived(tmp_path: Path, start_pebble: StartPebble, http_port: int) -> None:
    pebble = start_pebble(http_port=http_port, validity_seconds=240, retry_after=0)
    config = acme_config(
        pebble.directory_url, pebble.ca_bundle, domains=["site1.example.com"], re_patterns=[r".+\.example\.org"]
    )
    with CertServer(tmp_path / "server", config, port=http_port) as server:
        first = server.cert("site1.example.com")
        pebble.pause()
        second = server.cert("site1.example.com")
        assert second.json["fingerprint"] == first.json["fingerprint"]
        pebble.resume()
        assert server.cert("next.example.org").status == 200
