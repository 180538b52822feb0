"""Two instances on one directory: one account, one order per name, and either answers either's challenges."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.pebble import Pebble
from tests.support.server import CertServer, Reply, acme_config
from tests.support.verify import verified_leaf

NAMES = [f"n{number}.example.com" for number in range(12)]


@pytest.fixture
def pair(tmp_path: Path, pebble: Pebble, http_port: int) -> Iterator[tuple[CertServer, CertServer]]:
    """Pebble validates at the first one, whoever placed the order."""
    shared = tmp_path / "shared"
    config = acme_config(pebble.directory_url, pebble.ca_bundle, re_patterns=[r".+\.example\.com"])
    with (
        CertServer(tmp_path / "one", config, port=http_port, directory=shared) as one,
        CertServer(tmp_path / "two", config, directory=shared) as two,
    ):
        yield one, two


def test_two_instances_make_one_order_per_name(pair: tuple[CertServer, CertServer], pebble: Pebble) -> None:
    questions = [(server, name) for name in NAMES for server in pair]

    def ask(question: tuple[CertServer, str]) -> Reply:
        server, name = question
        return server.cert(name)

    with ThreadPoolExecutor(len(questions)) as pool:
        replies = [*pool.map(ask, questions)]
    root = pebble.root_certificate()
    for (_, name), reply in zip(questions, replies, strict=True):
        verified_leaf(reply, name, root)
    fingerprints = {(name, reply.json["fingerprint"]) for (_, name), reply in zip(questions, replies, strict=True)}
    assert len(fingerprints) == len(NAMES)
    assert pebble.order_count() == len(NAMES)
    assert pebble.account_count() == 1


def test_an_instance_killed_in_the_middle_is_taken_over_at_once(
    pair: tuple[CertServer, CertServer], pebble: Pebble
) -> None:
    one, two = pair
    pebble.pause()  # so that both are in the middle when one is killed
    with ThreadPoolExecutor(2) as pool:
        doomed = pool.submit(two.cert, "n1.example.com")
        while not (two.directory / "_leases" / "certificates" / "n1.example.com").exists():
            assert not doomed.done()
            time.sleep(0.01)
        two.kill()
        waiting = pool.submit(one.cert, "n1.example.com")
        pebble.resume()
        verified_leaf(waiting.result(), "n1.example.com", pebble.root_certificate())
        assert doomed.exception() is not None
