"""A storage that is put back to an earlier state takes no valid certificate away, and brings no revoked one back."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from ssl_cert_server.clock import SystemClock
from ssl_cert_server.config.load import load_config
from ssl_cert_server.server.storages import open_storage
from ssl_cert_server.storage.base import CHANGES_KEPT
from tests.support.going_back import KINDS, DirectoryGoingBack, GoingBack
from tests.support.leaves import DAY, make_certificate
from tests.support.pebble import Pebble
from tests.support.server import CertServer, acme_config
from tests.support.waiting import wait_until

PATTERNS = [r"[a-z0-9-]+\.example\.com"]
NAMES = [f"n{number}.example.com" for number in range(12)]
EARLY, LATE = NAMES[:6], NAMES[6:]
"""Names whose certificates the backup has, and names whose it lacks."""

SHARED = ("redis", "postgres")


@pytest.fixture(params=[*KINDS])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[GoingBack]:
    with KINDS[request.param](tmp_path) as storage:
        yield storage


class Fleet:
    """Instances on one storage: the first two with mirrors, where the storage may have them, the third without."""

    def __init__(self, folder: Path, pebble: Pebble, storage: GoingBack, http_port: int) -> None:
        self._folder = folder
        self._pebble = pebble
        self._storage = storage
        self._http_port = http_port
        self._stack = ExitStack()
        self.members: list[CertServer] = []
        self.mirrors = [folder / f"mirror-{number}" for number in range(2)]
        self.known: dict[str, str] = {}

    def start(self, count: int = 3) -> None:
        for number in range(count):
            mirror = {"mirror_dir": str(self.mirrors[number])} if number < 2 else {}
            section = self._storage.section(**mirror)
            config = acme_config(
                self._pebble.directory_url, self._pebble.ca_bundle, re_patterns=PATTERNS, storage=section
            )
            port = self._http_port if number == 0 else None
            self.members.append(
                self._stack.enter_context(CertServer(self._folder / f"member-{number}", config, port=port))
            )

    def learn(self, *names: str) -> None:
        """Have every instance serve these names."""
        for server in self.members:
            with ThreadPoolExecutor(len(names)) as pool:
                replies = [*pool.map(server.cert, names)]
            for name, reply in zip(names, replies, strict=True):
                assert self.known.setdefault(name, reply.json["fingerprint"]) == reply.json["fingerprint"]

    def wait_for_mirrors(self) -> None:
        for mirror in self.mirrors[: len(self.members)]:
            wait_until(lambda mirror=mirror: self.known.keys() <= {path.name for path in mirror.iterdir()})  # type: ignore[misc]

    def check(self, *servers: CertServer) -> None:
        """Every known name is answered with its certificate, by each of these."""
        questions = [(server, name) for server in servers or self.members for name in self.known]
        with ThreadPoolExecutor(8) as pool:
            replies = [*pool.map(lambda question: question[0].cert(question[1]), questions)]
        wrong = [
            (question[1], reply.status)
            for question, reply in zip(questions, replies, strict=True)
            if reply.status != 200 or reply.json["fingerprint"] != self.known[question[1]]
        ]
        assert wrong == []

    def check_until_mended(self, orders: int) -> None:
        """As :meth:`check`, all the time until storage has every certificate and its renewal again."""

        def mended() -> bool:
            self.check()
            return self.known.keys() <= self._storage.certificates() and self.known.keys() <= self._storage.planned()

        wait_until(mended, 120)
        self.check()
        assert self._pebble.order_count() == orders
        assert not [server.log for server in self.members if "Traceback" in server.log]

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def fleet(tmp_path: Path, pebble: Pebble, storage: GoingBack, http_port: int) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, pebble, storage, http_port)
    yield fleet
    fleet.close()


def written_back(server: CertServer) -> int:
    return server.log.count("certificate.written_back")


@pytest.mark.parametrize(
    ("storage", "ca"), [*((kind, "up") for kind in KINDS), ("redis", "down")], indirect=["storage"]
)
def test_what_a_backup_lacks_is_served_on_and_written_back(
    fleet: Fleet, pebble: Pebble, storage: GoingBack, ca: str
) -> None:
    fleet.start()
    fleet.learn(*EARLY)
    storage.snapshot()
    fleet.learn(*LATE)
    orders = pebble.order_count()
    if ca == "down":
        pebble.stop()
    storage.go_back()
    fleet.check_until_mended(orders)
    assert sum(map(written_back, fleet.members)) == len(LATE), "each by one instance"
    # What was mended is as good as what was stored: an instance without a memory reads it.
    newcomer = fleet.members[2]
    newcomer.stop()
    newcomer.start()
    fleet.check(newcomer)
    assert pebble.order_count() == orders


@pytest.mark.parametrize("storage", SHARED, indirect=True)
def test_after_a_restart_the_mirror_answers_and_fills_what_storage_lost(
    fleet: Fleet, pebble: Pebble, storage: GoingBack
) -> None:
    fleet.start(1)
    (server,) = fleet.members
    fleet.learn(*EARLY)
    storage.snapshot()
    fleet.learn(*LATE)
    fleet.wait_for_mirrors()
    orders = pebble.order_count()
    server.stop()
    storage.go_back()
    pebble.stop()
    server.start()
    fleet.check_until_mended(orders)


def test_a_renewed_certificate_takes_the_place_of_the_one_in_the_backup(
    fleet: Fleet, pebble: Pebble, storage: GoingBack
) -> None:
    fleet.start()
    fleet.learn(*EARLY)
    storage.snapshot()
    name = EARLY[0]
    done = fleet.members[0].command("revoke", name, "--yes")  # replaces it first
    assert done.returncode == 0, done.stderr
    revoked = fleet.known.pop(name)
    for server in fleet.members:
        wait_until(lambda server=server: server.cert(name).json["fingerprint"] != revoked)  # type: ignore[misc]
    fleet.learn(name)
    orders = pebble.order_count()
    storage.go_back()
    wait_until(lambda: any(map(written_back, fleet.members)), 120)
    fleet.check_until_mended(orders)
    wait_until(lambda: sum(map(written_back, fleet.members)) == 1)
    for server in fleet.members:
        server.stop()
    for mirror in fleet.mirrors:
        shutil.rmtree(mirror, ignore_errors=True)
    fleet.members[2].start()
    fleet.check(fleet.members[2])
    assert pebble.order_count() == orders


class Hearing:
    """What the instances of a fleet heard of changes since this was made."""

    def __init__(self, fleet: Fleet) -> None:
        self._cursors = [(server, self._ask(server, "")["cursor"]) for server in fleet.members]

    def wait_for(self, name: str) -> None:
        for server, cursor in self._cursors:
            wait_until(lambda server=server, cursor=cursor: self._heard(server, cursor, name))  # type: ignore[misc]

    def _heard(self, server: CertServer, cursor: str, name: str) -> bool:
        answer = self._ask(server, cursor)
        return answer["reset"] or name in answer["names"]

    def _ask(self, server: CertServer, cursor: str) -> Any:
        return server.get(f"/v1/changes?since={cursor}").json


def revoke(fleet: Fleet, name: str, server: int = 0) -> None:
    """Revoke a certificate, with nothing in its place."""
    done = fleet.members[server].command("revoke", name, "--yes", "--without-replacement")
    assert done.returncode == 0, done.stderr
    del fleet.known[name]


@pytest.mark.parametrize("storage", [*SHARED, "directory"], indirect=True)
def test_a_certificate_that_was_revoked_before_or_after_it_is_not_served_again(
    fleet: Fleet, pebble: Pebble, storage: GoingBack
) -> None:
    fleet.start()
    fleet.learn(*EARLY[:3])
    storage.snapshot()
    fleet.learn(LATE[0])
    before, after = EARLY[0], LATE[0]
    hearing = Hearing(fleet)
    revoke(fleet, before)
    hearing.wait_for(before)
    storage.go_back()
    wait_until(lambda: after in storage.certificates() and before not in storage.certificates(), 120)
    assert any("certificate.removed_again" in server.log for server in fleet.members)
    hearing = Hearing(fleet)
    revoke(fleet, after, 1)
    hearing.wait_for(after)
    pebble.stop()
    for server in fleet.members:
        assert [server.cert(name).status for name in (before, after)] == [500, 500]
    fleet.check()
    if isinstance(storage, DirectoryGoingBack):
        return
    for mirror in fleet.mirrors:
        assert {before, after}.isdisjoint(path.name for path in mirror.iterdir())


async def announce_very_much(config_file: Path) -> None:
    storage = open_storage(load_config(config_file), SystemClock(), create=True)
    for start in range(0, 3 * CHANGES_KEPT, 1000):
        await storage.announce([f"x{number}.example.com" for number in range(start, start + 1000)])
    await storage.close()


@pytest.mark.parametrize("storage", [*SHARED, "directory"], indirect=True)
def test_an_instance_that_slept_through_a_revocation_does_not_write_the_certificate_back(
    fleet: Fleet, pebble: Pebble, storage: GoingBack
) -> None:
    fleet.start(2)
    awake, asleep = fleet.members
    fleet.learn(*EARLY[:2])
    if not isinstance(storage, DirectoryGoingBack):
        fleet.wait_for_mirrors()
    asleep.process.pause()
    revoke(fleet, EARLY[0])
    asyncio.run(announce_very_much(awake.config_file))
    pebble.stop()
    asleep.process.resume()
    wait_until(lambda: "write_back.compared" in asleep.log)
    wait_until(lambda: asleep.cert(EARLY[0]).status == 500)
    assert EARLY[0] not in storage.certificates()
    assert written_back(asleep) == 0
    fleet.check()
    asleep.stop()
    asleep.start()  # its mirror may have slept, too
    assert asleep.cert(EARLY[0]).status == 500
    fleet.check(awake)


@pytest.mark.parametrize("storage", ["redis"], indirect=True)
def test_a_mirror_that_is_emptied_or_removed_is_filled_again(fleet: Fleet, storage: GoingBack) -> None:
    fleet.start(1)
    fleet.learn(*EARLY[:3])
    fleet.wait_for_mirrors()
    mirror = fleet.mirrors[0]
    wait_until(lambda: (mirror / "_mirror" / "filled").exists())
    for path in mirror.iterdir():
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    fleet.wait_for_mirrors()
    assert [*(mirror / "_deployment").iterdir()]
    (mirror / EARLY[0]).unlink()
    fleet.wait_for_mirrors()
    mirror.rename(mirror.with_name("removed"))  # at once: the server may be writing there
    wait_until(mirror.exists)
    fleet.wait_for_mirrors()
    assert [*(mirror / "_issued").iterdir()]
    assert "Traceback" not in fleet.members[0].log


@pytest.mark.parametrize("storage", ["redis"], indirect=True)
def test_a_certificate_that_was_only_deleted_is_written_back(fleet: Fleet, pebble: Pebble, storage: GoingBack) -> None:
    """No announcement tells of it, and no cursor is lost."""
    fleet.start(1)
    fleet.learn(*EARLY[:2])
    storage.remove(EARLY[0])
    fleet.check_until_mended(pebble.order_count())


@pytest.mark.parametrize("storage", SHARED, indirect=True)
def test_what_no_ca_issued_is_kept_too(storage: GoingBack, pebble: Pebble, tmp_path: Path) -> None:
    """The local CA's root, the self-signed certificate, and an operator's."""
    names = {"local": "a.test", "self-signed": "b.example.org", "managed": "c.example.net"}
    config = acme_config(
        pebble.directory_url,
        pebble.ca_bundle,
        re_patterns=PATTERNS,
        local_ca={"enable": True},
        self_signed={"enable": True},
        managed=[{"pattern": r"c\.example\.net", "cert_key": "operators"}],
        storage=storage.section(mirror_dir=str(tmp_path / "mirror")),
    )
    with CertServer(tmp_path / "server", config) as server:
        wait_until(lambda: "_deployment" in {path.name for path in (tmp_path / "mirror").iterdir()})
        storage.snapshot()
        managed = make_certificate(names["managed"], start=time.time() - DAY, end=time.time() + DAY)
        asyncio.run(put(server.config_file, "operators", managed.stored))
        replies = {what: server.cert(name).json for what, name in names.items()}
        mirrored = ("_local_ca/root", "self_signed", "operators")
        wait_until(lambda: all((tmp_path / "mirror" / key).exists() for key in mirrored))
        root = issuer_of(replies["local"]["cert"])
        storage.go_back()
        wait_until(lambda: written_back(server) == 3)
        for restart in (False, True):
            if restart:
                server.stop()
                storage.go_back()
                server.start()
            for what in ("self-signed", "managed"):
                assert server.cert(names[what]).json["fingerprint"] == replies[what]["fingerprint"]
            assert issuer_of(server.cert("d.test").json["cert"]) == root
        wait_until(lambda: written_back(server) == 6)
        assert "Traceback" not in server.log


async def put(config_file: Path, key: str, value: bytes) -> None:
    storage = open_storage(load_config(config_file), SystemClock(), create=True)
    await storage.put(key, value)
    await storage.close()


def issuer_of(chain: str) -> bytes:
    return x509.load_pem_x509_certificates(chain.encode())[0].issuer.public_bytes()
