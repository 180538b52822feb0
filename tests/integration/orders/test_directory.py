"""An order that can't be stored in a directory: one write is refused, and others are not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.integration.orders.scene import Ca, Scene, check_costs_one, check_lasting
from tests.support.fault_proxy import Step
from tests.support.storage_faults import failing_calls, index_locked, unwritable

Fault = Callable[[Scene, Path], AbstractContextManager[None]]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, ca: Ca) -> Iterator[Scene]:
    with Scene(tmp_path_factory.mktemp("server"), ca) as scene:
        yield scene


def _unwritable(folder: str) -> Fault:
    return lambda scene, _: unwritable(scene.server.directory / folder)


def _failing(call: str, error: str) -> Fault:
    return lambda scene, folder: failing_calls(scene.server.process, call, error, folder / "strace.log")


def _index_locked(scene: Scene, _: Path) -> AbstractContextManager[None]:
    return index_locked(scene.server.directory / ".index.sqlite")


LASTING: dict[str, Fault] = {
    "_state unwritable": _unwritable("_state"),
    "index locked": _index_locked,
    "pwrite64 ENOSPC": _failing("pwrite64", "ENOSPC"),
    "pwrite64 EIO": _failing("pwrite64", "EIO"),
    "fdatasync EIO": _failing("fdatasync", "EIO"),
    "fsync EIO": _failing("fsync", "EIO"),
    "rename EACCES": _failing("rename", "EACCES"),
}


@pytest.mark.parametrize("fault", LASTING.values(), ids=[*LASTING])
def test_nothing_is_ordered_while_a_write_fails(scene: Scene, fault: Fault, tmp_path: Path) -> None:
    check_lasting(scene, fault(scene, tmp_path))


def test_a_record_that_can_not_be_written_costs_one_order(scene: Scene) -> None:
    check_costs_one(scene, unwritable(scene.server.directory / "_issued"))


AFTER = [
    pytest.param(Step.NEW_ORDER, _unwritable("_state"), id="newOrder, _state unwritable"),
    pytest.param(Step.NEW_ORDER, _failing("fsync", "EIO"), id="newOrder, fsync EIO"),
    pytest.param(Step.NEW_ORDER, _failing("rename", "EACCES"), id="newOrder, rename EACCES"),
    pytest.param(Step.CERTIFICATE, _unwritable("_state"), id="certificate, _state unwritable"),
    pytest.param(Step.CERTIFICATE, _failing("fsync", "EIO"), id="certificate, fsync EIO"),
]


@pytest.mark.parametrize(("step", "fault"), AFTER)
def test_a_write_that_fails_after_a_step_costs_no_other_order(
    scene: Scene, step: Step, fault: Fault, tmp_path: Path
) -> None:
    check_costs_one(scene, fault(scene, tmp_path), at=step)
