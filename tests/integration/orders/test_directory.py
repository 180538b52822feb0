"""An order that can't be stored in a directory: one write is refused, and others are not."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import pytest

from tests.integration.orders.scene import OTHERS, Ca, Scene, check_costs_one, check_lasting
from tests.support.fault_proxy import Step
from tests.support.server import Reply
from tests.support.storage_faults import (
    failing_calls,
    immutable,
    index_locked,
    locked,
    obeying_permissions,
    of_another_owner,
    unwritable,
)
from tests.support.waiting import wait_until

ENOUGH = 20
"""Requests for a name that is stuck."""

LOCKED = 30
"""Seconds, at most, for which a lock is held."""

Fault = Callable[[Scene, Path], AbstractContextManager[None]]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, ca: Ca) -> Iterator[Scene]:
    with Scene(tmp_path_factory.mktemp("server"), ca) as scene:
        yield scene


def _unwritable(folder: str) -> Fault:
    return lambda scene, _: unwritable(scene.server.directory / folder)


def _failing(call: str, error: str) -> Fault:
    return lambda scene, folder: failing_calls(scene.server.process, call, error, folder / "strace.log")


def _of_another_owner(*names: str) -> Fault:
    return lambda scene, _: of_another_owner(*(scene.server.directory / name for name in names))


def _index_locked(scene: Scene, _: Path) -> AbstractContextManager[None]:
    return index_locked(scene.server.directory / ".index.sqlite")


LASTING: dict[str, Fault] = {
    "_state unwritable": _unwritable("_state"),
    "_issued unwritable": _unwritable("_issued"),
    "index locked": _index_locked,
    "pwrite64 ENOSPC": _failing("pwrite64", "ENOSPC"),
    "pwrite64 EIO": _failing("pwrite64", "EIO"),
    "fdatasync EIO": _failing("fdatasync", "EIO"),
    "fsync EIO": _failing("fsync", "EIO"),
    "rename EACCES": _failing("rename", "EACCES"),
    ".lock of another owner": _of_another_owner(".lock"),
    ".last-token of another owner": _of_another_owner(".last-token"),
}


@pytest.mark.parametrize("fault", LASTING.values(), ids=[*LASTING])
def test_nothing_is_ordered_while_a_write_fails(scene: Scene, fault: Fault, tmp_path: Path) -> None:
    check_lasting(scene, fault(scene, tmp_path))


def test_nothing_is_ordered_where_another_owner_keeps_the_index_closed(scene: Scene) -> None:
    """As after a command that root ran before the server was started."""
    scene.server.stop()
    scene.begin(of_another_owner(*(scene.server.directory / name for name in (".index.sqlite", ".index.lock"))))
    scene.server.start()
    check_lasting(scene, nullcontext())


def test_an_index_of_another_owner_is_replaced(scene: Scene) -> None:
    scene.server.stop()
    scene.begin(of_another_owner(scene.server.directory / ".index.sqlite"))
    scene.server.start()
    (name,) = scene.new_names(1)
    assert {reply.status for reply in scene.ask_ten_times(name)} == {200}
    assert scene.orders == 1
    assert scene.is_ready()
    assert "event=storage.index_lost" in scene.server.log


AFTER = [
    pytest.param(Step.NEW_ORDER, _unwritable("_state"), id="newOrder, _state unwritable"),
    pytest.param(Step.NEW_ORDER, _failing("fsync", "EIO"), id="newOrder, fsync EIO"),
    pytest.param(Step.NEW_ORDER, _failing("rename", "EACCES"), id="newOrder, rename EACCES"),
    pytest.param(Step.CERTIFICATE, _unwritable("_state"), id="certificate, _state unwritable"),
    pytest.param(Step.CERTIFICATE, _unwritable("_issued"), id="certificate, _issued unwritable"),
    pytest.param(Step.CERTIFICATE, _failing("fsync", "EIO"), id="certificate, fsync EIO"),
]


@pytest.mark.parametrize(("step", "fault"), AFTER)
def test_a_write_that_fails_after_a_step_costs_no_other_order(
    scene: Scene, step: Step, fault: Fault, tmp_path: Path
) -> None:
    check_costs_one(scene, fault(scene, tmp_path), at=step)


def test_a_lock_that_is_taken_at_new_order_costs_no_other_order(scene: Scene) -> None:
    (name,) = scene.new_names(1)
    scene.begin_at(Step.NEW_ORDER, name, locked(scene.server.directory / ".lock"))
    with ThreadPoolExecutor(10) as pool:
        asking = [pool.submit(scene.server.cert, name) for _ in range(10)]
        wait(asking, timeout=LOCKED)
        scene.check_known()
        assert not scene.is_ready()
        assert scene.orders == 1
        scene.end()
        assert {question.result().status for question in asking} <= {200, 500}
    scene.check_issued(name, orders=1)


def test_an_order_that_is_held_in_memory_survives_a_restart(scene: Scene) -> None:
    """Storage works again, and the server is stopped before it tried: it tries ever less often."""
    (name,) = scene.new_names(1)
    scene.begin_at(Step.NEW_ORDER, name, unwritable(scene.server.directory / "_state"))
    assert scene.server.cert(name).status == 500
    wait_until(lambda: scene.server.log.count(f"event=state.not_stored cert_key={name}") >= 2)
    scene.end()
    assert scene.server.stop() == 0
    scene.server.start()
    scene.check_issued(name, orders=1)


STUCK = [
    pytest.param("value", "_state", "_state", id="state"),
    pytest.param("lease", "certificates", "_leases/certificates", id="lease"),
]
EMPTY_STATE = '{"failures": 0, "retry_at": 0, "error": "", "orders": []}'


@contextmanager
def _asked_constantly(scene: Scene, name: str) -> Iterator[list[Reply]]:
    """Have two clients ask for a name during the block, without a pause; yield the replies, as they come."""
    replies: list[Reply] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            replies.append(scene.server.cert(name))

    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(ask) for _ in range(2)]
        try:
            yield replies
        finally:
            over.set()
            for client in asking:
                client.result()


@pytest.mark.parametrize(("kind", "key", "folder"), STUCK)
def test_a_single_file_that_can_not_be_replaced_holds_up_no_other_name(
    scene: Scene, kind: str, key: str, folder: str
) -> None:
    (name,) = scene.new_names(1)
    stuck = scene.server.directory / folder / name
    stuck.write_text(EMPTY_STATE)
    scene.begin(immutable(stuck))
    with _asked_constantly(scene, name) as replies:
        alone = f"event=storage.key_not_written kind={kind} storage_key={key}/{name}"
        wait_until(lambda: scene.is_ready() and alone in scene.server.log)
        for other in scene.new_names(OTHERS):
            assert scene.server.cert(other).status == 200
            assert scene.is_ready()
        scene.check_known()
        wait_until(lambda: len(replies) >= ENOUGH)
    assert {reply.status for reply in replies} == {500}
    assert scene.orders == OTHERS
    scene.end()
    scene.check_issued(name, orders=OTHERS + 1)


def test_nothing_is_revoked_while_its_removal_can_not_be_stored(scene: Scene) -> None:
    (name,) = scene.new_names(1)
    fingerprint = scene.server.cert(name).json["fingerprint"]
    removed = scene.server.directory / "_removed"
    removed.mkdir(mode=0o700, exist_ok=True)
    command = [*obeying_permissions(), sys.executable, "-m", "ssl_cert_server", "revoke", name, "--yes"]
    command += ["--without-replacement", "-c", str(scene.server.config_file)]
    with unwritable(removed):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "Permission denied" in done.stderr
    assert "certificate.revoked" not in done.stderr
    assert scene.server.cert(name).json["fingerprint"] == fingerprint
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "certificate.revoked" in done.stderr
