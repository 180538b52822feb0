"""kill -9 at random instants while certificates are issued: nothing acknowledged is lost, nothing is torn."""

from __future__ import annotations

import http.client
import json
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ssl_cert_server.acme.jose import AccountKey
from ssl_cert_server.pki.x509 import parse_certificate
from tests.integration.conftest import StartPebble
from tests.support.server import CertServer, acme_config, backing_off_for, changed_program
from tests.support.verify import verified_leaf

NAMES = [f"n{number}.example.com" for number in range(50)]
ASKERS = 4
FEWEST_KILLS = 5
MOST_KILLS = 60
DEADLINE = 240
BACK_OFF = 2.0
"""Seconds, instead of a minute, for which a name backs off whose order was being placed at a kill."""


def ask_until_answered(server: CertServer, name: str, acknowledged: dict[str, str], end: float) -> None:
    """Ask again and again, as a web server would, through every crash."""
    while time.monotonic() < end:
        try:
            reply = server.cert(name)
        except (OSError, http.client.HTTPException):
            time.sleep(0.05)
            continue
        if reply.status == 200:
            acknowledged[name] = reply.json["fingerprint"]
            return
        time.sleep(0.5)


def kill_at_random(server: CertServer, acknowledged: dict[str, str], dice: random.Random, end: float) -> int:
    """Kill while certificates are issued, up to :data:`MOST_KILLS` times, and return how often."""
    kills = 0
    while kills < MOST_KILLS and len(acknowledged) < len(NAMES) and time.monotonic() < end:
        time.sleep(dice.uniform(0.05, 0.9))
        server.kill()
        server.start()
        kills += 1
    return kills


def check_nothing_is_torn(server: CertServer) -> None:
    for key, value in server.stored().items():
        if key.endswith(".key"):
            AccountKey.from_pem(value)
        elif key.startswith("_"):
            json.loads(value)
        else:
            assert key in parse_certificate(value).names


@pytest.mark.parametrize("seed", [random.randrange(2**32)], ids=["random"])  # its value is shown where it fails
def test_kill_9_loses_nothing_that_was_acknowledged(
    tmp_path: Path, start_pebble: StartPebble, http_port: int, seed: int
) -> None:
    pebble = start_pebble(http_port=http_port, retry_after=0)
    config = acme_config(pebble.directory_url, pebble.ca_bundle, re_patterns=[r".+\.example\.com"])
    acknowledged: dict[str, str] = {}
    end = time.monotonic() + DEADLINE
    program = changed_program(backing_off_for(BACK_OFF))
    with CertServer(tmp_path / "server", config, port=http_port, program=program) as server:
        with ThreadPoolExecutor(ASKERS) as pool:
            asking = [pool.submit(ask_until_answered, server, name, acknowledged, end) for name in NAMES]
            kills = kill_at_random(server, acknowledged, random.Random(seed), end)
            for question in asking:
                question.result()
        assert kills >= FEWEST_KILLS
        server.kill()
        check_nothing_is_torn(server)
        orders = pebble.order_count()
        server.start()
        assert sorted(acknowledged) == sorted(NAMES)
        for name, fingerprint in acknowledged.items():
            reply = server.cert(name)
            verified_leaf(reply, name, pebble.root_certificate())
            assert reply.json["fingerprint"] == fingerprint
        assert pebble.order_count() == orders
    assert pebble.account_count() == 1
    assert "Traceback" not in server.log
