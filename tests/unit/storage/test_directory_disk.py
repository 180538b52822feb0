"""A directory whose disk is full, read-only, gone, or not the server's: clear errors, and the good data untouched.

The disks are real ones, small and in memory, in a process with mounts of its own; ``disk_cases`` holds what happens
there. See tests/support/disks.py for what is done where the machine allows no mounts.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.disks import run_with_mounts
from tests.unit.storage.disk_cases import CASES, one_file_of_anothers


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that other users can reach, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="disk-"))
    folder.chmod(0o755)
    yield folder / "storage"
    shutil.rmtree(folder)


@pytest.mark.parametrize("case", [case.__name__ for case in CASES if case is not one_file_of_anothers])
def test_with_mounts_where_the_machine_allows_them(place: Path, case: str) -> None:
    run_with_mounts("tests.unit.storage.disk_cases", case, str(place))


@pytest.mark.parametrize("case", [case.__name__ for case in CASES])
def test_without_mounts(place: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.disks.unsharing", list)
    run_with_mounts("tests.unit.storage.disk_cases", case, str(place))
