"""The whole way: a visitor's handshake through nginx, the server and a CA, for a name nobody knew before."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from tests.support.fleet import Fleet
from tests.support.handshake import handshake, shown_certificate
from tests.support.verify import verified_leaf


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path / "fleet", retry_after=0) as running:
        yield running


def test_a_handshake_for_an_unknown_name_gets_a_certificate_of_its_own(fleet: Fleet) -> None:
    root = fleet.pebble.root_certificate()
    shown = handshake(fleet.nginx.https_port, "site1.example.com", root)
    leaf = x509.load_der_x509_certificate(shown)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["site1.example.com"]
    # The server's answer is that very certificate, with the chain and the key that belong to it.
    assert verified_leaf(fleet.server.cert("site1.example.com"), "site1.example.com", root) == leaf
    assert handshake(fleet.nginx.https_port, "site1.example.com", root) == shown
    assert fleet.pebble.order_count() == 1


def test_a_hundred_handshakes_at_once_make_one_order(fleet: Fleet) -> None:
    root = fleet.pebble.root_certificate()
    with ThreadPoolExecutor(100) as pool:
        leaves = {*pool.map(lambda _: handshake(fleet.nginx.https_port, "busy.example.com", root), range(100))}
    assert len(leaves) == 1
    assert fleet.pebble.order_count() == 1
    assert fleet.pebble.account_count() == 1


def test_a_refused_and_a_failing_name_get_the_fallback(fleet: Fleet) -> None:
    assert shown_certificate(fleet.nginx.https_port, "example.org") == fleet.nginx.fallback_der
    assert fleet.pebble.order_count() == 0
    fleet.pebble.add_servfail("broken.example.com")
    for _ in range(3):
        assert shown_certificate(fleet.nginx.https_port, "broken.example.com") == fleet.nginx.fallback_der
    assert fleet.pebble.order_count() == 1


def test_a_known_name_outlives_the_server(fleet: Fleet) -> None:
    root = fleet.pebble.root_certificate()
    shown = handshake(fleet.nginx.https_port, "site1.example.com", root)
    fleet.server.kill()
    fleet.pebble.stop()
    assert handshake(fleet.nginx.https_port, "site1.example.com", root) == shown
    fingerprint = x509.load_der_x509_certificate(shown).fingerprint(hashes.SHA1()).hex()
    fleet.server.start()
    assert fleet.server.cert("site1.example.com").json["fingerprint"] == fingerprint
