"""Certificates from Caddy's ACME server: what works with one CA only would show here.

How Caddy 2.6 (with smallstep's CA inside) differs from Pebble, as seen on the wire:

- The directory's ``meta`` is empty: no terms of service, no CAA identities, no profiles; and there is no ARI.
- It validates within the request that answers a challenge: the challenge is ``valid`` in that request's answer. A
  challenge that failed stays ``pending``, with an ``error``, and so do its authorization and order.
- All challenges of an authorization share one token.
- An order is ``valid`` in the answer to its CSR, without ever being ``processing``. It tells ``notBefore`` and
  ``notAfter`` unasked, and an ``id``.
- No Retry-After anywhere, no nonce with a certificate, and none is ever refused by dice.
- Leaves are dated back by a minute, and live for 12 hours. Their alternative names are critical, as they have no
  subject. Pebble's are dated at the second they are made.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from tests.support.caddy import Caddy, can_run
from tests.support.ports import free_port
from tests.support.server import CertServer, acme_config
from tests.support.verify import verified_leaf

pytestmark = pytest.mark.skipif(not can_run(), reason="Caddy is missing, or namespaces are not permitted here")

SHORT = 40  # seconds; renewed after half of them


@dataclass(frozen=True, slots=True)
class Shop:
    """A server that issues from Caddy."""

    caddy: Caddy
    server: CertServer


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder, port = tmp_path_factory.mktemp("shop"), free_port()
    with Caddy(folder / "caddy", http_port=port) as caddy:
        config = acme_config(caddy.directory_url, caddy.ca_bundle, re_patterns=[r"[a-z0-9-]+\.example\.com"])
        with CertServer(folder / "server", config, port=port) as server:
            yield Shop(caddy, server)
            assert "Traceback" not in server.log


def test_names_are_issued_side_by_side_by_one_account(shop: Shop) -> None:
    names = [f"n{number}.example.com" for number in range(20)]
    with ThreadPoolExecutor(len(names)) as pool:
        for name, reply in zip(names, pool.map(shop.server.cert, names), strict=True):
            verified_leaf(reply, name, shop.caddy.root_certificate())
    assert shop.server.log.count("event=acme.account.registered") == 1
    assert shop.server.log.count("event=acme.order.created") == len(names)


def test_a_restart_finds_the_account_and_the_certificates(shop: Shop) -> None:
    first = shop.server.cert("restart.example.com")
    shop.server.stop()
    shop.server.start()
    assert shop.server.cert("restart.example.com").json["fingerprint"] == first.json["fingerprint"]
    verified_leaf(shop.server.cert("other.example.com"), "other.example.com", shop.caddy.root_certificate())
    assert shop.server.log.count("event=acme.account.registered") == 1


def test_a_certificate_is_renewed_while_the_old_one_is_served(shop: Shop) -> None:
    name, root = "short-lived.example.com", shop.caddy.root_certificate()
    verified_leaf(shop.server.cert(name), name, root)
    shop.server.stop()
    (shop.server.directory / name).write_bytes(shop.caddy.short_lived(name, SHORT))
    shop.server.start()
    old = shop.server.cert(name)
    verified_leaf(old, name, root)
    assert old.json["expire_at"] < time.time() + SHORT
    reply = old
    while reply.json["fingerprint"] == old.json["fingerprint"]:
        assert time.time() < old.json["expire_at"] - 1, "the old one was served to its end"
        time.sleep(0.2)
        reply = shop.server.cert(name)
        verified_leaf(reply, name, root)
    assert reply.json["expire_at"] > time.time() + 3600
