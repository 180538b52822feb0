"""Certificates that live for seconds, renewed behind the back of those who use them."""

from __future__ import annotations

import re
import time
from pathlib import Path

from tests.integration.conftest import StartPebble
from tests.support.server import CertServer, acme_config
from tests.support.verify import verified_leaf
from tests.support.waiting import wait_until

BRIEF_LIFETIME = 12
LIFETIME = 30  # renewed after half of it: a slow machine has the other half
ROOMY_LIFETIME = 40  # renewed after 20 s at the earliest: a slow machine is still ready by then
DEADLINE = 150


def test_a_certificate_is_renewed_while_the_old_one_is_served(
    tmp_path: Path, start_pebble: StartPebble, http_port: int
) -> None:
    pebble = start_pebble(http_port=http_port, validity_seconds=LIFETIME, retry_after=0)
    config = acme_config(pebble.directory_url, pebble.ca_bundle, domains=["site1.example.com"])
    with CertServer(tmp_path / "server", config, port=http_port) as server:
        fingerprints = [server.cert("site1.example.com").json["fingerprint"]]
        end = time.monotonic() + DEADLINE
        while len(fingerprints) < 3 and time.monotonic() < end:
            reply = server.cert("site1.example.com")
            verified_leaf(reply, "site1.example.com", pebble.root_certificate())
            assert reply.json["ttl"] == 0  # within the last minute of its life
            if reply.json["fingerprint"] not in fingerprints:
                fingerprints.append(reply.json["fingerprint"])
            time.sleep(0.2)
    assert len(fingerprints) == 3
    assert pebble.account_count() == 1


def test_what_was_issued_before_a_restart_is_renewed_after_it_unasked(
    tmp_path: Path, start_pebble: StartPebble, http_port: int
) -> None:
    pebble = start_pebble(http_port=http_port, validity_seconds=ROOMY_LIFETIME, retry_after=0)
    config = acme_config(pebble.directory_url, pebble.ca_bundle, domains=["site1.example.com"])
    with CertServer(tmp_path / "server", config, port=http_port) as server:
        server.cert("site1.example.com")
        server.stop()
        before = server.stored()["site1.example.com"]
        server.start()
        wait_until(lambda: server.stored()["site1.example.com"] != before, DEADLINE)


def test_while_the_ca_hangs_at_a_renewal_the_old_certificate_is_served(
    tmp_path: Path, start_pebble: StartPebble, http_port: int
) -> None:
    pebble = start_pebble(http_port=http_port, validity_seconds=ROOMY_LIFETIME, retry_after=0)
    config = acme_config(pebble.directory_url, pebble.ca_bundle, domains=["site1.example.com"])
    with CertServer(tmp_path / "server", config, port=http_port) as server:
        old = server.cert("site1.example.com").json["fingerprint"]
        pebble.pause()
        wait_until((server.directory / "_leases" / "certificates" / "site1.example.com").exists, DEADLINE)
        assert server.cert("site1.example.com").json["fingerprint"] == old
        pebble.resume()
        wait_until(lambda: server.cert("site1.example.com").json["fingerprint"] != old, DEADLINE)


def test_one_that_can_not_be_renewed_is_told_of_by_one_instance_of_two(
    tmp_path: Path, start_pebble: StartPebble, http_port: int
) -> None:
    pebble = start_pebble(http_port=http_port, validity_seconds=BRIEF_LIFETIME, retry_after=0)
    config = acme_config(pebble.directory_url, pebble.ca_bundle, domains=["site1.example.com"])
    shared = tmp_path / "storage"
    with (
        CertServer(tmp_path / "one", config, port=http_port, directory=shared) as one,
        CertServer(tmp_path / "two", config, directory=shared) as two,
    ):
        one.cert("site1.example.com")
        pebble.stop()
        # It lives for too short a time to be told of before it expires.
        wait_until(lambda: "event=renewal.expiring" in one.log + two.log, DEADLINE)
        line = r"level=error event=renewal\.expiring cert_key=site1\.example\.com days_left=0\.0 remedy="
        assert len(re.findall(line, one.log + two.log)) == 1
