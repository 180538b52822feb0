"""A certificate at the first request, from a real CA, through the server alone."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.integration.conftest import StartPebble
from tests.support.pebble import Pebble
from tests.support.server import CertServer, acme_config
from tests.support.verify import verified_leaf

PERMITTED = {"domains": ["site1.example.com"], "re_patterns": [r".+\.shop\.example\.com"]}


@pytest.fixture
def server(tmp_path: Path, pebble: Pebble, http_port: int) -> Iterator[CertServer]:
    """A server that Pebble validates at directly: its port is where http-01 goes."""
    config = acme_config(pebble.directory_url, pebble.ca_bundle, **PERMITTED)
    with CertServer(tmp_path / "server", config, port=http_port) as running:
        yield running


def test_the_first_request_issues_and_the_second_is_answered_from_memory(server: CertServer, pebble: Pebble) -> None:
    first = server.cert("site1.example.com")
    verified_leaf(first, "site1.example.com", pebble.root_certificate())
    assert first.json["type"] == 0
    assert 3540 <= first.json["ttl"] <= 3600
    assert first.json["pkey"].startswith("-----BEGIN EC PRIVATE KEY-----\n")
    second = server.cert("SITE1.Example.COM.")
    assert second.json["fingerprint"] == first.json["fingerprint"]
    assert pebble.order_count() == 1
    unchanged = server.get("/cert/site1.example.com", {"If-None-Match": first.headers["etag"]})
    assert (unchanged.status, unchanged.body) == (304, b"")
    assert 3540 <= int(unchanged.headers["x-ttl"]) <= 3600
    assert server.get("/ocsp/site1.example.com?fp=" + first.json["fingerprint"]).status == 204


def test_a_hundred_requests_at_once_make_one_order(server: CertServer, pebble: Pebble) -> None:
    with ThreadPoolExecutor(100) as pool:
        replies = [*pool.map(server.cert, ["site1.example.com"] * 100)]
    assert {reply.status for reply in replies} == {200}
    assert len({reply.json["fingerprint"] for reply in replies}) == 1
    assert pebble.order_count() == 1


def test_different_names_are_issued_side_by_side_by_one_account(server: CertServer, pebble: Pebble) -> None:
    names = [f"n{number}.shop.example.com" for number in range(20)]
    with ThreadPoolExecutor(len(names)) as pool:
        for name, reply in zip(names, pool.map(server.cert, names), strict=True):
            verified_leaf(reply, name, pebble.root_certificate())
    assert pebble.order_count() == len(names)
    assert pebble.account_count() == 1


def test_a_restart_serves_what_was_issued(server: CertServer, pebble: Pebble) -> None:
    first = server.cert("site1.example.com")
    assert server.stop() == 0
    server.start()
    assert server.cert("site1.example.com").json["fingerprint"] == first.json["fingerprint"]
    assert pebble.order_count() == 1


def test_a_failing_name_is_refused_at_once_until_its_time_has_come(server: CertServer, pebble: Pebble) -> None:
    pebble.add_servfail("broken.shop.example.com")
    failed = server.cert("broken.shop.example.com")
    assert failed.status == 500
    assert 1 <= int(failed.headers["retry-after"]) <= 66
    assert b"broken" not in failed.body
    orders = pebble.order_count()
    for _ in range(5):
        refused = server.cert("broken.shop.example.com")
        assert refused.status == 500
        assert 1 <= int(refused.headers["retry-after"]) <= 66
    server.kill()
    server.start()
    assert server.cert("broken.shop.example.com").status == 500
    assert pebble.order_count() == orders
    assert server.cert("fine.shop.example.com").status == 200


def test_hostile_names_get_400_and_touch_neither_disk_nor_ca(server: CertServer, pebble: Pebble) -> None:
    before = server.stored()
    hostile = [
        "", "a" * 300, "a" * 64 + ".shop.example.com", "%00.shop.example.com", "..", "%2e%2e/x",
        "..%2f..%2fetc%2fpasswd", "a%2fb.shop.example.com", "127.0.0.1", "[::1]", "%5b::1%5d",
        "under_score.shop.example.com",
        "xn--zz--.shop.example.com", "-a.shop.example.com", "a..shop.example.com", "a.shop.example.com..",
        "NOT.Permitted.example.org.", "site1.example.com.attacker.net", "xsite1.example.com", "*.shop.example.com",
        "a%20b.shop.example.com", "a%0d%0aX:y.shop.example.com", "%ff.shop.example.com", "shop.example.com",
        "a%E2%80%8Db.shop.example.com", "a?b.shop.example.com",
    ]  # fmt: skip
    for name in hostile:
        reply = server.cert(name)
        assert reply.status == 400, (name, reply)
        assert reply.headers["content-type"].startswith("text/plain")
        assert reply.body.count(b"\n") == 1
        assert reply.body.endswith(b"\n")
    assert server.stored() == before
    assert pebble.order_count() == 0
    assert "Traceback" not in server.log


def test_a_ca_outage_leaves_known_names_alone(server: CertServer, pebble: Pebble) -> None:
    known = server.cert("site1.example.com")
    pebble.stop()
    assert server.cert("site1.example.com").json["fingerprint"] == known.json["fingerprint"]
    assert server.cert("new.shop.example.com").status == 500
    assert server.get("/readyz").status == 200


def test_a_ca_that_forgot_the_account_gets_it_again(server: CertServer, pebble: Pebble) -> None:
    assert server.cert("site1.example.com").status == 200
    key = next(value for name, value in server.stored().items() if name.endswith(".key"))
    pebble.restart()
    verified_leaf(server.cert("other.shop.example.com"), "other.shop.example.com", pebble.root_certificate())
    assert key == next(value for name, value in server.stored().items() if name.endswith(".key"))


def test_a_ca_that_refuses_half_of_all_nonces_and_takes_its_time_loses_no_name(
    tmp_path: Path, start_pebble: StartPebble, http_port: int
) -> None:
    pebble = start_pebble(http_port=http_port, nonce_reject=50, sleep=True, authz_reuse=50)
    config = acme_config(pebble.directory_url, pebble.ca_bundle, **PERMITTED)
    names = [f"slow{number}.shop.example.com" for number in range(20)]
    with CertServer(tmp_path / "server", config, port=http_port) as server, ThreadPoolExecutor(len(names)) as pool:
        for name, reply in zip(names, pool.map(server.cert, names), strict=True):
            verified_leaf(reply, name, pebble.root_certificate())
    assert pebble.order_count() == len(names)


def test_rsa_where_it_is_forced(tmp_path: Path, pebble: Pebble, http_port: int) -> None:
    config = acme_config(pebble.directory_url, pebble.ca_bundle, **PERMITTED, lets_encrypt={"force_rsa": True})
    with CertServer(tmp_path / "server", config, port=http_port) as server:
        reply = server.cert("site1.example.com")
        verified_leaf(reply, "site1.example.com", pebble.root_certificate())
        assert reply.json["pkey"].startswith("-----BEGIN RSA PRIVATE KEY-----\n")
        assert "site1.example.com+rsa" in server.stored()
