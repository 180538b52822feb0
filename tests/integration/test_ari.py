"""A CA that says when it wants a certificate renewed (ARI, RFC 9773), and a server that heeds it.

The server first asks at some time within the first hour, drawn by its dice: these servers' dice always say the same.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.support.pebble import Pebble
from tests.support.server import CertServer, acme_config, loaded_dice
from tests.support.verify import verified_leaf
from tests.support.waiting import wait_until

NAME = "a.example.com"
HOUR = 3600.0


@pytest.fixture(autouse=True)
def _knows_ari(pebble: Pebble) -> None:
    if "renewalInfo" not in pebble.directory():
        pytest.skip("Debian's Pebble knows no ARI")


def server_with(dice: float, folder: Path, pebble: Pebble, http_port: int) -> CertServer:
    """A server whose dice always say ``dice``, on the directory that all of them share."""
    config = acme_config(pebble.directory_url, pebble.ca_bundle, domains=[NAME])
    directory = folder / "shared"
    return CertServer(folder / f"server-{dice}", config, port=http_port, directory=directory, program=loaded_dice(dice))


def issue(folder: Path, pebble: Pebble, http_port: int) -> bytes:
    """Have a certificate issued by a server that doesn't ask its CA for advice yet; its PEM."""
    with server_with(0.99, folder, pebble, http_port) as server:
        reply = server.cert(NAME)
        verified_leaf(reply, NAME, pebble.root_certificate())
        chain: str = reply.json["cert"]
    _grow_old(folder / "shared")
    return chain.encode()


def _grow_old(directory: Path) -> None:
    """As if it had rested; and without the index, which is made anew: by the next server's dice."""
    file = directory / "_issued" / NAME
    file.write_text(json.dumps({**json.loads(file.read_bytes()), "rests_until": 0, "heeded_from": 0}))
    for index in directory.glob(".index.sqlite*"):
        index.unlink()


def window(start: float, end: float) -> dict[str, object]:
    now = time.time()
    texts = [datetime.fromtimestamp(now + at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") for at in (start, end)]
    return {"suggestedWindow": dict(zip(("start", "end"), texts, strict=True))}


def record(server: CertServer) -> dict[str, float]:
    fields: dict[str, float] = json.loads(server.stored()[f"_issued/{NAME}"])
    return fields


def test_a_window_in_the_past_renews_now_and_says_what_it_replaces(
    tmp_path: Path, pebble: Pebble, http_port: int
) -> None:
    old = issue(tmp_path, pebble, http_port)
    pebble.set_renewal_info(leaf_pem(old), window(-2 * HOUR, -HOUR))
    with server_with(0.0, tmp_path, pebble, http_port) as server:
        wait_until(lambda: server.cert(NAME).json["cert"].encode() != old)
        reply = server.cert(NAME)
        verified_leaf(reply, NAME, pebble.root_certificate())
        assert "event=renewal.emergency" in server.log
        assert server.stored()[NAME].decode() == reply.json["pkey"] + reply.json["cert"]
    assert pebble.log.count(" is a replacement of ") == 1
    assert pebble.order_count() == 2
    assert pebble.account_count() == 1


def test_a_window_to_come_is_kept_and_waited_for(tmp_path: Path, pebble: Pebble, http_port: int) -> None:
    old = issue(tmp_path, pebble, http_port)
    pebble.set_renewal_info(leaf_pem(old), window(10 * HOUR, 20 * HOUR))
    with server_with(0.0, tmp_path, pebble, http_port) as server:
        wait_until(lambda: record(server)["window_end"])
        kept = record(server)
        assert kept["window_end"] - kept["window_start"] == 10 * HOUR
        assert kept["window_start"] <= kept["renew_at"] < kept["window_end"]
        assert server.cert(NAME).json["cert"].encode() == old
        assert "its CA wants it renewed from" in server.command("why", NAME).stdout
    assert pebble.order_count() == 1


def test_advice_that_makes_no_sense_is_told_and_changes_nothing(tmp_path: Path, pebble: Pebble, http_port: int) -> None:
    old = issue(tmp_path, pebble, http_port)
    pebble.set_renewal_info(leaf_pem(old), "no JSON at all")
    with server_with(0.0, tmp_path, pebble, http_port) as server:
        wait_until(lambda: "event=renewal.advice_failed" in server.log)
        assert server.cert(NAME).json["cert"].encode() == old
        wait_until(lambda: record(server)["ask_at"] > time.time())
        assert "Traceback" not in server.log
    assert pebble.order_count() == 1


def leaf_pem(chain: bytes) -> bytes:
    end = b"-----END CERTIFICATE-----\n"
    return chain[: chain.index(end)] + end
