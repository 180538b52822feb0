"""Names that strangers bring up: asked about, capped in depth and number. And listed ones, issued unasked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.ask_endpoint import AskEndpoint
from tests.support.pebble import Pebble
from tests.support.server import CertServer, acme_config
from tests.support.verify import verified_leaf
from tests.support.waiting import wait_until


def config_for(pebble: Pebble, **more: Any) -> dict[str, Any]:
    return acme_config(pebble.directory_url, pebble.ca_bundle, **more)


def test_the_endpoint_decides_about_what_nothing_else_covers(
    tmp_path: Path, pebble: Pebble, http_port: int, ask_endpoint: AskEndpoint
) -> None:
    ask_endpoint.allowed = {"shop.customer.example"}
    config = config_for(pebble, ask=ask_endpoint.section, domains=["own.example.com"])
    with CertServer(tmp_path / "server", config, port=http_port) as server:
        root = pebble.root_certificate()
        verified_leaf(server.cert("own.example.com"), "own.example.com", root)
        assert ask_endpoint.asked == []
        verified_leaf(server.cert("shop.customer.example"), "shop.customer.example", root)
        for _ in range(3):
            assert server.cert("stranger.example").status == 400
            assert server.cert("shop.customer.example").status == 200
        assert ask_endpoint.asked == ["shop.customer.example", "stranger.example"]
        assert server.cert("127.0.0.1").status == 400
        assert server.cert("dotless").status == 400
        assert ask_endpoint.asked == ["shop.customer.example", "stranger.example"]
        assert "ask decides" in server.command("why", "stranger.example").stdout
    assert pebble.order_count() == 2


def test_while_the_endpoint_is_down_what_is_stored_is_served(
    tmp_path: Path, pebble: Pebble, http_port: int, ask_endpoint: AskEndpoint
) -> None:
    ask_endpoint.allowed = {"shop.customer.example", "new.customer.example"}
    with CertServer(tmp_path / "server", config_for(pebble, ask=ask_endpoint.section), port=http_port) as server:
        issued = server.cert("shop.customer.example").json["fingerprint"]
        ask_endpoint.stop()
        server.stop()
        server.start()
        assert server.cert("shop.customer.example").json["fingerprint"] == issued
        refused = server.cert("new.customer.example")
        assert refused.status == 500
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert pebble.order_count() == 1
        assert "event=ask.failed" in server.log
        ask_endpoint.start()
        wait_until(lambda: server.cert("new.customer.example").status == 200)
    assert ask_endpoint.asked == ["shop.customer.example", "new.customer.example"]


def test_a_refused_name_gets_the_self_signed_certificate(
    tmp_path: Path, pebble: Pebble, http_port: int, ask_endpoint: AskEndpoint
) -> None:
    config = config_for(pebble, ask=ask_endpoint.section, self_signed={"enable": True})
    with CertServer(tmp_path / "server", config, port=http_port) as server:
        reply = server.cert("stranger.example")
        assert (reply.status, reply.json["type"]) == (200, 100)
    assert ask_endpoint.asked == ["stranger.example"]
    assert pebble.order_count() == 0


def test_names_with_too_many_labels_are_refused_unasked(
    tmp_path: Path, pebble: Pebble, http_port: int, ask_endpoint: AskEndpoint
) -> None:
    deep, deeper = "a.b.customer.example", "a.b.c.customer.example"
    ask_endpoint.allowed = {deep, deeper}
    config = config_for(
        pebble,
        ask=ask_endpoint.section,
        on_demand={"max_labels": 4},
        domains=["w.x.y.example.com"],
        re_patterns=[r".+\.pattern\.test"],
    )
    with CertServer(tmp_path / "server", config, port=http_port) as server:
        assert server.cert(deep).status == 200
        assert server.cert(deeper).status == 400
        assert server.cert("a.b.c.pattern.test").status == 400
        assert server.cert("w.x.y.example.com").status == 200  # listed: as deep as it likes
    assert ask_endpoint.asked == [deep]
    assert pebble.order_count() == 2


def test_strangers_names_have_a_budget_of_their_own(tmp_path: Path, pebble: Pebble, http_port: int) -> None:
    config = config_for(
        pebble,
        domains=["own.example.com"],
        re_patterns=[r".+\.shop\.example\.com"],
        on_demand={"issuances": "2/1h"},
    )
    with CertServer(tmp_path / "server", config, port=http_port) as server:
        names = [f"n{number}.shop.example.com" for number in range(3)]
        replies = [server.cert(name) for name in names]
        assert [reply.status for reply in replies] == [200, 200, 500]
        assert 60 < int(replies[2].headers["retry-after"]) <= 1800
        assert pebble.order_count() == 2
        server.kill()
        server.start()  # what was spent is remembered
        assert server.cert(names[2]).status == 500
        assert server.cert(names[0]).status == 200
        assert pebble.order_count() == 2
        assert server.cert("own.example.com").status == 200  # the operator's own names aren't counted


def test_strangers_names_have_a_budget_for_each_registered_domain(
    tmp_path: Path, pebble: Pebble, http_port: int
) -> None:
    config = config_for(pebble, re_patterns=[r".+\.com"], on_demand={"issuances_per_domain": "1/1d"})
    with CertServer(tmp_path / "server", config, port=http_port) as server:
        names = ["a.one.com", "b.one.com", "a.two.com"]
        assert [server.cert(name).status for name in names] == [200, 500, 200]
    assert pebble.order_count() == 2


def test_listed_names_are_issued_before_anybody_asks(tmp_path: Path, pebble: Pebble, http_port: int) -> None:
    names = ["a.example.com", "b.example.com", "c.example.com"]
    config = config_for(pebble, domains=names, preload=True)
    with CertServer(tmp_path / "server", config, port=http_port) as server:
        wait_until(lambda: server.stored().keys() >= {*names})
        for name in names:
            verified_leaf(server.cert(name), name, pebble.root_certificate())
        assert pebble.order_count() == len(names)
        server.stop()
        server.start()
        wait_until(lambda: server.get("/readyz").status == 200)
        assert server.cert("a.example.com").status == 200
    assert pebble.order_count() == len(names)
