"""Instances on one Redis or PostgreSQL: no leader, nothing to configure, and an outage that visitors don't feel."""

from __future__ import annotations

import os
import random
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
import yaml

from tests.integration.conftest import StartPebble
from tests.support.fault_proxy import FaultProxy, Step
from tests.support.faults import tripwire
from tests.support.pebble import Pebble
from tests.support.ports import free_port
from tests.support.server import CertServer, Reply, acme_config
from tests.support.shared_load import SharedLoad
from tests.support.shared_storage import KINDS, SERVERS, Cable, SharedRedis, SharedStorage
from tests.support.verify import verified_leaf
from tests.support.waiting import wait_until

KILLS = int(os.environ.get("SOAK_KILLS", "6"))
NAMES_AT_ONCE = 4
LEFT_ALONE_EVERY = 20
"""Of so many kills, after one nobody helps leases to lapse; that takes half a minute."""
PATTERNS = [r"[a-z0-9-]+\.example\.com"]
NAMES = [f"n{number}.example.com" for number in range(12)]


@pytest.fixture(params=[*SERVERS])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SharedStorage]:
    with KINDS[request.param](tmp_path / "shared") as storage:
        yield storage


class Fleet:
    """Instances of one configuration; Pebble validates at the first, whoever placed the order."""

    def __init__(self, folder: Path, pebble: Pebble, storage: SharedStorage, http_port: int) -> None:
        self._folder = folder
        self._pebble = pebble
        self._storage = storage
        self._http_port: int | None = http_port
        self._stack = ExitStack()
        self.members: list[CertServer] = []

    def add(self, *, port: int | None = None, ca: FaultProxy | Pebble | None = None, **storage: Any) -> CertServer:
        """Start another; ``port`` is where it finds the storage, ``storage`` more of that section."""
        ca = ca or self._pebble
        section = self._storage.section(port=port, **storage)
        config = acme_config(ca.directory_url, ca.ca_bundle, re_patterns=PATTERNS, storage=section)
        folder = self._folder / f"member-{len(self.members)}"
        member = self._stack.enter_context(CertServer(folder, config, port=self._http_port))
        self._http_port = None
        self.members.append(member)
        return member

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def fleet(tmp_path: Path, pebble: Pebble, shared: SharedStorage, http_port: int) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, pebble, shared, http_port)
    yield fleet
    fleet.close()


def ask_all(questions: list[tuple[CertServer, str]]) -> list[Reply]:
    with ThreadPoolExecutor(len(questions)) as pool:
        return [*pool.map(lambda question: question[0].cert(question[1]), questions)]


def test_three_instances_make_one_order_per_name_and_one_account(fleet: Fleet, pebble: Pebble) -> None:
    servers = [fleet.add() for _ in range(3)]
    questions = [(server, name) for name in NAMES for server in servers]
    replies = ask_all(questions)
    root = pebble.root_certificate()
    for (_, name), reply in zip(questions, replies, strict=True):
        verified_leaf(reply, name, root)
    fingerprints = {(name, reply.json["fingerprint"]) for (_, name), reply in zip(questions, replies, strict=True)}
    assert len(fingerprints) == len(NAMES)
    assert pebble.order_count() == len(NAMES)
    assert pebble.account_count() == 1
    assert not [server.log for server in servers if "Traceback" in server.log]


def test_what_one_replaces_all_use_within_a_moment(fleet: Fleet) -> None:
    one, two = fleet.add(), fleet.add()
    name = "site1.example.com"
    old = one.cert(name).json["fingerprint"]
    assert two.cert(name).json["fingerprint"] == old
    done = one.command("revoke", name, "--yes")
    assert done.returncode == 0, done.stderr
    for server in (one, two):
        wait_until(lambda server=server: server.cert(name).json["fingerprint"] != old)  # type: ignore[misc]
    assert one.cert(name).json["fingerprint"] == two.cert(name).json["fingerprint"]


def test_what_a_killed_instance_was_at_is_finished_by_another_once_the_lease_lapsed(
    tmp_path: Path, start_pebble: StartPebble
) -> None:
    """No lease is made to lapse here: this waits for it, for all kinds of storage at the same time."""
    name = "site1.example.com"
    with ExitStack() as stack:
        scenes = [
            stack.enter_context(Scene(tmp_path / kind, kind, start_pebble, killed_at=name)) for kind in sorted(KINDS)
        ]
        answers = ask_all([(scene.left, name) for scene in scenes])
        for scene, reply in zip(scenes, answers, strict=True):
            verified_leaf(reply, name, scene.pebble.root_certificate())
            assert scene.pebble.order_count() == scene.pebble.certificate_count() == 1, (
                "the same order was gone on with"
            )
            assert "Traceback" not in scene.left.log


class Scene:
    """Two instances, of which one was killed when the CA had its order for a name finalized. A context manager."""

    def __init__(self, folder: Path, kind: str, start_pebble: StartPebble, *, killed_at: str) -> None:
        self._folder = folder
        self._kind = kind
        self._http_port = free_port()
        self._name = killed_at
        self.pebble = start_pebble(http_port=self._http_port)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            storage = stack.enter_context(KINDS[self._kind](self._folder / "shared"))
            proxy = stack.enter_context(FaultProxy(self._folder / "proxy", self.pebble))
            fleet = Fleet(self._folder, self.pebble, storage, self._http_port)
            stack.callback(fleet.close)
            self.left, doomed = fleet.add(ca=proxy), fleet.add(ca=proxy)
            is_there, is_killed = threading.Event(), threading.Event()

            def wait_for_its_end() -> None:
                is_there.set()
                is_killed.wait(60)

            proxy.script(Step.FINALIZE, tripwire(wait_for_its_end, forwarding=True), name=self._name)
            pool = stack.enter_context(ThreadPoolExecutor(1))
            asking = pool.submit(doomed.cert, self._name)
            assert is_there.wait(60)
            doomed.kill()
            is_killed.set()
            assert asking.exception() is not None
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.close()


def test_one_that_is_cut_off_in_the_middle_writes_nothing_when_it_is_back(
    fleet: Fleet, pebble: Pebble, shared: SharedStorage, tmp_path: Path
) -> None:
    name = "site1.example.com"
    one = fleet.add()
    assert one.cert("opens-the-account.example.com").status == 200
    with Cable(tmp_path, shared.port) as cable, FaultProxy(tmp_path / "proxy", pebble) as proxy:
        cut_off = fleet.add(port=cable.port, ca=proxy, timeout=2)
        assert cut_off.cert("opens-an-account.example.com").status == 200
        is_cut = threading.Event()

        def cut() -> None:
            cable.cut()
            is_cut.set()

        proxy.script(Step.CERTIFICATE, tripwire(cut, forwarding=True, answering=True), name=name)
        with ThreadPoolExecutor(1) as pool:
            late = pool.submit(cut_off.cert, name)
            assert is_cut.wait(60)
            shared.lapse_leases()
            winner = one.cert(name)  # its own order, at the CA as it knows it
            verified_leaf(winner, name, pebble.root_certificate())
            issued = pebble.certificate_count()
            cable.mend()
            assert late.result().status in (200, 500)
        wait_until(lambda: cut_off.cert(name).status == 200)
        assert cut_off.cert(name).json["fingerprint"] == winner.json["fingerprint"]
        assert pebble.certificate_count() == issued == 4, "it had one in its hands, and the other's counts"
        assert f"event=certificate.issued name={name}" not in cut_off.log
    assert one.cert(name).json["fingerprint"] == winner.json["fingerprint"]


def test_an_outage_of_storage_is_not_felt_where_a_name_was_served_before(
    fleet: Fleet, pebble: Pebble, shared: SharedStorage, tmp_path: Path
) -> None:
    server = fleet.add(mirror_dir=str(tmp_path / "mirror"), timeout=2)
    known = {name: server.cert(name).json["fingerprint"] for name in NAMES[:3]}
    wait_until(lambda: len([*(tmp_path / "mirror").glob("n*.example.com")]) == 3)
    orders = pebble.order_count()
    shared.kill()
    for restart in (False, True):
        if restart:
            server.stop()
            server.start()
        for name, fingerprint in known.items():
            assert server.cert(name).json["fingerprint"] == fingerprint
        assert server.cert("new.example.com").status == 500
        assert server.get("/readyz").status == 503
        assert server.get("/healthz").status == 200
    assert pebble.order_count() == orders
    shared.start()
    wait_until(lambda: server.get("/readyz").status == 200)
    wait_until(lambda: server.cert("new.example.com").status == 200)
    assert "Traceback" not in server.log


@pytest.mark.parametrize("shared", ["redis"], indirect=True)
def test_a_mirror_that_is_removed_while_storage_is_away_is_filled_from_memory(
    fleet: Fleet, pebble: Pebble, shared: SharedStorage, tmp_path: Path
) -> None:
    mirror = tmp_path / "mirror"
    server = fleet.add(mirror_dir=str(mirror), timeout=2)
    known = {name: server.cert(name).json["fingerprint"] for name in NAMES[:3]}
    wait_until(lambda: len([*mirror.glob("n*.example.com")]) == 3)
    orders = pebble.order_count()
    shared.kill()
    mirror.rename(tmp_path / "removed")  # at once: the server may be writing there
    wait_until(lambda: "event=storage.mirror_filled certificates=3 from_memory=3" in server.log)
    server.stop()
    server.start()
    for name, fingerprint in known.items():
        assert server.cert(name).json["fingerprint"] == fingerprint
    shared.start()
    wait_until(lambda: server.get("/readyz").status == 200)
    assert pebble.order_count() == orders
    assert "Traceback" not in server.log


@pytest.mark.parametrize("shared", ["redis"], indirect=True)
def test_a_mirror_that_is_broken_at_the_start_is_done_without_and_filled_once_it_is_mended(
    fleet: Fleet, shared: SharedStorage, tmp_path: Path
) -> None:
    mirror = tmp_path / "mirror"
    server = fleet.add(mirror_dir=str(mirror), timeout=2)
    known = {name: server.cert(name).json["fingerprint"] for name in NAMES[:3]}
    server.stop()
    shutil.rmtree(mirror)
    mirror.write_text("in the place of a directory")
    server.start()
    for name, fingerprint in known.items():
        assert server.cert(name).json["fingerprint"] == fingerprint
    assert server.get("/readyz").status == 200
    wait_until(lambda: "event=storage.mirror_unusable" in server.log)
    mirror.unlink()
    wait_until(lambda: "event=storage.mirror_filled certificates=3 from_memory=0" in server.log)
    shared.kill()
    server.stop()
    server.start()
    for name, fingerprint in known.items():
        assert server.cert(name).json["fingerprint"] == fingerprint
    assert "Traceback" not in server.log


@pytest.mark.parametrize("shared", ["redis"], indirect=True)
def test_a_redis_that_comes_back_empty_costs_no_order_and_is_filled_from_the_mirror(
    fleet: Fleet, pebble: Pebble, shared: SharedRedis, tmp_path: Path
) -> None:
    mirror = tmp_path / "mirror"
    server = fleet.add(mirror_dir=str(mirror))
    known = {name: server.cert(name).json["fingerprint"] for name in NAMES[:3]}
    wait_until(lambda: len([*mirror.glob("n*.example.com")]) == 3)
    orders = pebble.order_count()
    shared.lose_everything()
    wait_until(lambda: "storage.lost" in server.log)
    for restart in (False, True):
        if restart:
            server.stop()
            server.start()
        wait_until(lambda: server.get("/readyz").status == 503)
        for name, fingerprint in known.items():
            assert server.cert(name).json["fingerprint"] == fingerprint
        assert server.cert("new.example.com").status == 500
    assert len([*mirror.glob("n*.example.com")]) == 3
    assert pebble.order_count() == orders

    copy = yaml.safe_load(server.config_file.read_text())
    copy["storage"] = {"dir_cache": str(mirror)}
    source = tmp_path / "mirror.yaml"
    source.write_text(yaml.safe_dump(copy))
    done = server.run("storage", "copy", "--resume", str(source), str(server.config_file))
    assert done.returncode == 0, done.stderr
    wait_until(lambda: server.get("/readyz").status == 200)
    wait_until(lambda: server.cert("new.example.com").status == 200)
    for name, fingerprint in known.items():
        assert server.cert(name).json["fingerprint"] == fingerprint
    assert "storage.found" in server.log
    assert "Traceback" not in server.log


@pytest.mark.parametrize("shared", [*KINDS], indirect=True)
def test_kill_9_of_instances_and_of_storage_loses_nothing(
    fleet: Fleet, pebble: Pebble, shared: SharedStorage, tmp_path: Path
) -> None:
    """A short run of what ``make soak`` does for long."""
    dice = random.Random(20261125)
    with FaultProxy(tmp_path / "proxy", pebble) as ca:  # it counts orders by name
        servers = [fleet.add(ca=ca) for _ in range(2)]
        with SharedLoad(servers, at_once=NAMES_AT_ONCE) as load:
            for kill in range(KILLS):
                wait_until(lambda kill=kill: len(load.acknowledged()) > kill)  # type: ignore[misc]
                if kill % 4 == 3:
                    kill_storage(shared, load)
                elif kill % LEFT_ALONE_EVERY == 2:
                    wait_until(lambda: is_at_work(servers[1], load, ca))
                    kill_and_leave_alone(servers[1], load)
                else:
                    kill_and_lapse(dice.choice(servers), shared, load)
        check_that_nothing_was_lost_or_done_twice(servers, load, ca, pebble)


def is_at_work(server: CertServer, load: SharedLoad, ca: FaultProxy) -> bool:
    """Tell whether it has an order under way, and so a lease that only time frees once it is killed."""
    log = server.log
    ordered = [name for name in load.unanswered.copy() if f"event=acme.order.created names=['{name}']" in log]
    return any(not ca.met[Step.CERTIFICATE, "forwarded", name] for name in ordered)


def kill_storage(shared: SharedStorage, load: SharedLoad) -> None:
    with load.outage(excuses=True):
        shared.kill()
        shared.start()


def kill_and_lapse(victim: CertServer, shared: SharedStorage, load: SharedLoad) -> None:
    """Wait for no lease: all lapse, those of the living, too, who find out when they write."""
    with load.outage(excuses=True):
        victim.kill()
        victim.start()
        shared.lapse_leases()


def kill_and_leave_alone(victim: CertServer, load: SharedLoad) -> None:
    """Every name that somebody waits for is taken over in time; ``victim`` isn't where Pebble validates."""
    with load.outage(excuses=False):
        victim.kill()
        victim.start()
    waiting = load.unanswered.copy()
    wait_until(lambda: waiting.isdisjoint(load.unanswered), 300)


def was_being_ordered(name: str, servers: list[CertServer]) -> bool:
    """Return whether a name backed off because a kill met it while its order was being placed."""
    words = f"{name}: the server stopped, or lost its storage, while it placed an order"
    return any(words in server.log for server in servers)


def check_that_nothing_was_lost_or_done_twice(
    servers: list[CertServer], load: SharedLoad, ca: FaultProxy, pebble: Pebble
) -> None:
    for server in servers:
        server.kill()
    wait_until(lambda: ca.orders.total() == pebble.order_count())
    # A kill may cost a name that is under way the order that was placed and not kept yet.
    assert {name: count for name, count in ca.orders.items() if count > 1 + load.struck[name]} == {}
    failed = {name for name, replies in load.replies.items() if any(reply.status != 200 for reply in replies)}
    interrupted = {name for name in failed if load.struck[name] and was_being_ordered(name, servers)}
    assert failed <= load.excused | interrupted, "a lease outlived its holder, or what was mended is still felt"
    before = ca.orders.copy()
    acknowledged = load.acknowledged()
    assert len(acknowledged) >= KILLS
    for server in servers:
        server.start()
    for server in servers:
        wait_until(lambda server=server: server.get("/readyz").status == 200)  # type: ignore[misc]
    root = pebble.root_certificate()
    for name, fingerprints in acknowledged.items():
        for server in servers:
            reply = server.cert(name)
            verified_leaf(reply, name, root)
            assert {reply.json["fingerprint"]} == fingerprints
    assert [name for name in acknowledged if ca.orders[name] > before[name]] == []
    assert pebble.account_count() == 1
    assert not [server.log for server in servers if "Traceback" in server.log]
