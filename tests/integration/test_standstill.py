"""Instances on one directory of which one is stopped (SIGSTOP, docker pause): what the others still do.

``flock`` that a stopped process holds can't be broken. So new names are refused in words within a bound, names that
are stored are answered as ever, and once the stopped one goes on each name is ordered once.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from ssl_cert_server.storage.leasing import LEASE_SECONDS
from tests.support.pebble import Pebble
from tests.support.server import CertServer, Reply, acme_config, changed_program
from tests.support.stopped import stopped_with_lock, stopped_writing, wait_until_stopped
from tests.support.verify import verified_leaf
from tests.support.waiting import wait_until

KNOWN = [f"known{number}.example.com" for number in range(5)]
NEW = [f"new{number}.example.com" for number in range(20)]
STOP_WITH_LOCK = """
import os, signal, time
from ssl_cert_server.storage.directory_leases import DirectoryLeases
store, once = DirectoryLeases._store, [signal.SIGSTOP]
def stop(self, lease, seconds):
    store(self, lease, seconds)
    if lease.name.endswith("stop.example.com") and once:
        os.kill(os.getpid(), once.pop())
        time.sleep(1)  # another thread may take the signal, and this one goes on for a moment
DirectoryLeases._store = stop
"""


@pytest.fixture
def config(pebble: Pebble) -> dict[str, object]:
    return acme_config(pebble.directory_url, pebble.ca_bundle, re_patterns=[r".+\.example\.com"])


@contextmanager
def asked(server: CertServer, names: Iterable[str]) -> Iterator[dict[str, Future[Reply]]]:
    """Ask for names side by side."""
    wanted = [*names]
    with ThreadPoolExecutor(len(wanted)) as pool:
        yield {name: pool.submit(server.cert, name) for name in wanted}


def fill(server: CertServer, pebble: Pebble) -> None:
    with asked(server, KNOWN) as replies:
        for name, reply in replies.items():
            verified_leaf(reply.result(), name, pebble.root_certificate())


def check_served_from_storage_while_new_names_are_refused(server: CertServer, pebble: Pebble) -> None:
    began = time.monotonic()
    with asked(server, NEW) as refused:
        with asked(server, KNOWN) as known:
            for name, reply in known.items():
                verified_leaf(reply.result(), name, pebble.root_certificate())
        assert time.monotonic() - began < LEASE_SECONDS / 2, "no stored name waits for a lock"
        assert {reply.result().status for reply in refused.values()} == {500}
    assert time.monotonic() - began < LEASE_SECONDS * 0.8, "nor a new one for as long as a lease"


def check_not_ready(server: CertServer, holder: int) -> None:
    assert server.get("/readyz").status == 503
    assert f"it is locked by process {holder}, which is stopped; continue it (kill -CONT {holder}, " in server.log


def check_each_is_ordered_once(pebble: Pebble, names: int, *servers: CertServer) -> None:
    for server in servers:
        with asked(server, NEW) as replies:
            for name, reply in replies.items():
                verified_leaf(reply.result(), name, pebble.root_certificate())
    assert pebble.order_count() == names


def test_a_stopped_process_that_holds_the_lock_stops_neither_stored_names_nor_readiness(
    tmp_path: Path, pebble: Pebble, http_port: int, config: dict[str, object]
) -> None:
    shared = tmp_path / "shared"
    with CertServer(tmp_path / "one", config, port=http_port, directory=shared) as one:
        fill(one, pebble)
    with (
        stopped_with_lock(shared / ".lock", tmp_path / "stopped.log") as stopped,
        CertServer(tmp_path / "one", config, port=http_port, directory=shared) as one,  # it starts all the same
    ):
        check_served_from_storage_while_new_names_are_refused(one, pebble)
        check_not_ready(one, stopped.pid)
        assert pebble.order_count() == len(KNOWN), "nothing is ordered meanwhile"
        stopped.resume()
        wait_until(lambda: one.get("/readyz").status == 200)
        check_each_is_ordered_once(pebble, len(KNOWN) + len(NEW), one)


def test_an_instance_that_is_stopped_with_the_lock_goes_on_where_it_was(
    tmp_path: Path, pebble: Pebble, http_port: int, config: dict[str, object]
) -> None:
    shared = tmp_path / "shared"
    with CertServer(tmp_path / "one", config, port=http_port, directory=shared) as one:
        fill(one, pebble)
    one_that_stops = CertServer(tmp_path / "two", config, directory=shared, program=changed_program(STOP_WITH_LOCK))
    with (
        CertServer(tmp_path / "one", config, port=http_port, directory=shared) as one,
        one_that_stops as two,
        ThreadPoolExecutor(1) as pool,
    ):
        own = pool.submit(two.cert, "stop.example.com")
        wait_until_stopped(two.process.pid)
        check_served_from_storage_while_new_names_are_refused(one, pebble)
        check_not_ready(one, two.process.pid)
        two.process.resume()
        verified_leaf(own.result(), "stop.example.com", pebble.root_certificate())
        wait_until(lambda: one.get("/readyz").status == 200)
        check_each_is_ordered_once(pebble, len(KNOWN) + len(NEW) + 1, one, two)


def test_the_indexs_lock_held_by_a_stopped_process_does_the_same(
    tmp_path: Path, pebble: Pebble, http_port: int, config: dict[str, object]
) -> None:
    shared = tmp_path / "shared"
    with CertServer(tmp_path / "one", config, port=http_port, directory=shared) as one:
        fill(one, pebble)
        with stopped_writing(shared / ".index.sqlite", tmp_path / "stopped.log") as stopped:
            with asked(one, KNOWN) as known:
                for name, reply in known.items():
                    verified_leaf(reply.result(), name, pebble.root_certificate())
            check_not_ready(one, stopped.pid)
            with asked(one, NEW) as refused:
                assert {reply.result().status for reply in refused.values()} == {500}
            assert pebble.order_count() == len(KNOWN)
            stopped.resume()
            wait_until(lambda: one.get("/readyz").status == 200)
            check_each_is_ordered_once(pebble, len(KNOWN) + len(NEW), one)


def test_a_lock_that_is_taken_away_in_the_middle_of_issuances_has_none_ordered_twice(
    tmp_path: Path, pebble: Pebble, http_port: int, config: dict[str, object]
) -> None:
    with CertServer(tmp_path / "one", config, port=http_port) as one:
        with asked(one, NEW) as replies:
            wait_until(lambda: pebble.order_count() > len(NEW) / 4)
            with stopped_with_lock(one.directory / ".lock", tmp_path / "stopped.log") as stopped:
                statuses = {reply.result().status for reply in replies.values()}
                assert 500 in statuses, "some could not be stored"
                stopped.resume()
                wait_until(lambda: not stopped.running)
        wait_until(lambda: one.get("/readyz").status == 200)
        with asked(one, NEW) as replies:
            assert 200 in {reply.result().status for reply in replies.values()}
        assert pebble.order_count() <= len(NEW), "the others go on with the orders they have, after a back-off"
