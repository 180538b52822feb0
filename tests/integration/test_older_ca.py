"""A CA of some years ago: Debian's Pebble, which has neither renewal information nor profiles."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.conftest import StartPebble
from tests.support.ports import free_port
from tests.support.server import CertServer
from tests.support.verify import verified_leaf

NAMES = ["a.example.com", "127.0.0.1"]


@pytest.mark.parametrize("challenge", ["http-01", "tls-alpn-01"])
def test_it_issues_though_it_lacks_what_is_configured(
    start_pebble: StartPebble, tmp_path: Path, challenge: str
) -> None:
    http_port, tls_port = free_port(), free_port()
    pebble = start_pebble(http_port=http_port, tls_port=tls_port, packaged=True)
    by_tls = {"http01": False, "tls_alpn01": {"listen": f"127.0.0.1:{tls_port}"}}
    config = {
        "acme": [
            {"directory_url": pebble.directory_url, "ca_bundle": str(pebble.ca_bundle), "profile": "shortlived"},
        ],
        "preflight": {"caa": False},
        "domains": NAMES,
        "challenges": by_tls if challenge == "tls-alpn-01" else {},
    }
    with CertServer(tmp_path / "server", config, port=http_port) as server:
        for name in NAMES:
            verified_leaf(server.cert(name), name, pebble.root_certificate())
        assert "acme.profile.unknown" in server.log
    assert pebble.order_count() == len(NAMES)
