"""The backends that the contract is stated for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from ssl_cert_server.storage.base import Storage
from ssl_cert_server.storage.directory import DirectoryStorage
from ssl_cert_server.storage.memory import MemoryStorage
from tests.support.clock import ManualClock


class Backend:
    """One place where values are kept; every ``open`` is another instance of the server on it."""

    def __init__(self, kind: str, place: Path) -> None:
        self.shared = kind != "memory"
        self._clock = ManualClock()
        self._place = place
        self._memory = MemoryStorage(self._clock)
        self._opened = AsyncExitStack()

    def open(self) -> Storage:
        """Another instance; memory has but one."""
        storage: Storage = DirectoryStorage(self._place, self._clock) if self.shared else self._memory
        self._opened.push_async_callback(storage.close)
        return storage

    async def let_pass(self, seconds: float) -> None:
        """Time goes on, for leases too."""
        await self._clock.advance(seconds)

    async def close(self) -> None:
        await self._opened.aclose()


@pytest.fixture(params=["memory", "directory"])
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    backend = Backend(request.param, tmp_path / "storage")
    yield backend
    await backend.close()


@pytest.fixture
def storage(backend: Backend) -> Storage:
    return backend.open()


@pytest.fixture
def peer(backend: Backend, storage: Storage) -> Storage:
    """Another instance on the same data, opened after ``storage``."""
    return backend.open()
