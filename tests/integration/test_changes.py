"""Web servers hear of what was replaced, and get the new one when they ask."""

from __future__ import annotations

import http.client
import json
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.leaves import make_certificate
from tests.support.pebble import Pebble
from tests.support.server import CertServer, Reply, acme_config
from tests.support.shared_storage import KINDS
from tests.support.waiting import wait_until

NAME = "site1.example.com"


def present(server: CertServer) -> str:
    """The present cursor, as soon as the server has heard it from its storage."""
    wait_until(lambda: server.get("/v1/changes").status == 200)
    cursor: str = server.get("/v1/changes").json["cursor"]
    return cursor


def poll(pool: ThreadPoolExecutor, server: CertServer, since: str) -> Future[Reply]:
    return pool.submit(server.get, f"/v1/changes?since={since}&wait=55")


@pytest.mark.parametrize("kind", [*KINDS])
def test_who_polls_any_instance_hears_of_what_another_replaced_and_gets_it(
    tmp_path: Path, pebble: Pebble, http_port: int, kind: str
) -> None:
    with KINDS[kind](tmp_path / "shared") as shared, ThreadPoolExecutor(2) as pool:
        config = acme_config(pebble.directory_url, pebble.ca_bundle, domains=[NAME], storage=shared.section())
        with (
            CertServer(tmp_path / "one", config, port=http_port) as one,
            CertServer(tmp_path / "two", config) as two,
        ):
            before = [present(server) for server in (one, two)]
            old = two.cert(NAME).json["fingerprint"]
            first = [poll(pool, *pair).result().json for pair in zip((one, two), before, strict=True)]
            assert [told["names"] for told in first] == [[NAME], [NAME]]
            polls = [poll(pool, server, told["cursor"]) for server, told in zip((one, two), first, strict=True)]
            done = one.command("revoke", NAME, "--yes")
            assert done.returncode == 0, done.stderr
            for server, told in zip((one, two), polls, strict=True):
                assert told.result().json["names"] == [NAME]
                assert server.cert(NAME).json["fingerprint"] != old, "it is the new one as soon as anybody is told"
            # A client that goes over to the other instance misses nothing.
            late = one.get(f"/v1/changes?since={first[1]['cursor']}").json
            assert (late["names"], late["reset"]) == ([NAME], False)


def test_a_cursor_outlives_a_restart(tmp_path: Path, pebble: Pebble, http_port: int) -> None:
    config = acme_config(pebble.directory_url, pebble.ca_bundle, domains=[NAME])
    with CertServer(tmp_path / "server", config, port=http_port) as server:
        cursor = present(server)
        assert server.cert(NAME).status == 200
        server.stop()
        server.start()
        told = server.get(f"/v1/changes?since={cursor}").json
        assert (told["names"], told["reset"]) == ([NAME], False)


def test_an_operator_who_replaces_a_managed_certificate_is_heard(tmp_path: Path) -> None:
    config = {"managed": [{"pattern": r".+\.example\.com", "cert_key": "shop"}]}
    storage = tmp_path / "storage"
    storage.mkdir(mode=0o700)

    def put() -> str:
        leaf = make_certificate("shop.example.com", start=time.time() - 100, end=time.time() + 86_400)
        (tmp_path / "new").write_bytes(leaf.stored)
        (tmp_path / "new").rename(storage / "shop")
        return leaf.fingerprint

    def heard(server: CertServer, cursor: str) -> tuple[str, set[str]]:
        """The next cursor that comes with names, and those."""
        told: list[str] = []
        while not told:
            answer = server.get(f"/v1/changes?since={cursor}&wait=55").json
            cursor, told = answer["cursor"], answer["names"]
        return cursor, {*told}

    old = put()
    with CertServer(tmp_path / "server", config, directory=storage) as server:
        cursor, _ = heard(server, "")
        assert server.cert("a.example.com").json["fingerprint"] == old
        new = put()
        cursor, names = heard(server, cursor)
        assert names == {"shop.example.com", "a.example.com"}
        assert server.cert("a.example.com").json["fingerprint"] == new
        server.stop()
        newest = put()
        server.start()
        cursor, names = heard(server, cursor)
        assert names == {"shop.example.com"}, "which others it answers is not known any more"
        assert server.cert("shop.example.com").json["fingerprint"] == newest


def test_who_waits_while_the_server_stops_is_answered(tmp_path: Path) -> None:
    with CertServer(tmp_path / "server") as server:
        cursor = present(server)
        with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)) as waiting:
            waiting.request("GET", f"/v1/changes?since={cursor}&wait=55")
            # Sent later, and answered: by then that question has come, too.
            assert server.get("/healthz").status == 200
            assert server.stop() == 0
            response = waiting.getresponse()
            assert (response.status, json.load(response)["cursor"]) == (200, cursor)
