"""Copying: everything, once, and nothing that was there is lost."""

from __future__ import annotations

import pytest

from ssl_cert_server.config.schema import Config
from ssl_cert_server.errors import StorageError
from ssl_cert_server.server.upkeep.copy import StorageCopy
from ssl_cert_server.server.upkeep.kept import QUEUES, Kept
from ssl_cert_server.storage.base import Due
from ssl_cert_server.storage.memory import MemoryStorage
from ssl_cert_server.storage.seal import Sealer, SealKey
from ssl_cert_server.storage.sealed import SealedStorage
from tests.support.clock import ManualClock
from tests.support.faulty_storage import FaultyStorage
from tests.unit.server.upkeep.support import everything, fill, note_calls

KEY = SealKey(bytes(32))


@pytest.fixture
def target(clock: ManualClock) -> FaultyStorage:
    return FaultyStorage(clock)


class Copies:
    """Copies from one storage to another, counting steps."""

    def __init__(self, config: Config, source: FaultyStorage, target: FaultyStorage, lines: list[str]) -> None:
        self.steps = 0
        self._config, self._source, self._target, self._lines = config, source, target, lines

    def of(self, *, overwrite: bool = False, sealed: bool = False) -> StorageCopy:
        target = SealedStorage(self._target, Sealer([KEY])) if sealed else self._target
        kept = Kept(self._config)
        return StorageCopy(self._source, target, kept, self._lines.append, self._step, overwrite=overwrite)

    def _step(self) -> None:
        self.steps += 1


@pytest.fixture
def copies(config: Config, storage: FaultyStorage, target: FaultyStorage, lines: list[str]) -> Copies:
    return Copies(config, storage, target, lines)


async def due(storage: MemoryStorage) -> set[Due]:
    """Give the entries of all queues."""
    return {entry for queue in QUEUES async for entry in storage.list_due(queue)}


async def test_what_a_running_server_writes_as_a_probe_is_not(
    copies: Copies, storage: FaultyStorage, target: FaultyStorage
) -> None:
    await fill(storage)
    values, entries = everything(storage), await due(storage)
    await storage.put("_state/~probe", b"{}")
    await storage.schedule("renewal", [Due("~probe", 4e9)])
    await copies.of().run()
    assert everything(target) == values
    assert await due(target) == entries


async def test_everything_is_copied(copies: Copies, storage: FaultyStorage, target: FaultyStorage) -> None:
    await fill(storage)
    await copies.of().check_empty()
    counts = await copies.of().run()
    assert everything(target) == everything(storage)
    assert await due(target) == await due(storage)
    assert (counts.copied, copies.steps) == (len(everything(storage)),) * 2
    assert counts.complete
    assert counts.scheduled == 7


@pytest.mark.parametrize("complete", [True, False])
async def test_whether_the_index_is_complete_is_copied_into_empty_storage(
    copies: Copies, storage: FaultyStorage, target: FaultyStorage, *, complete: bool
) -> None:
    if complete:
        await storage.index_complete()
        await storage.mark_index_complete()
    await copies.of().run()
    assert not await target.index_complete(), "of one that may hold something nobody knows"
    copy = copies.of()
    await copy.check_empty()
    await copy.run()
    assert await target.index_complete() == complete


async def test_into_sealed_storage_and_what_is_the_same_is_seen_there(
    copies: Copies, storage: FaultyStorage, target: FaultyStorage
) -> None:
    await fill(storage)
    await copies.of(sealed=True).run()
    assert not set(everything(storage).values()) & set(everything(target).values())
    assert (await copies.of(sealed=True).run()).same == len(everything(storage))


async def test_leases_are_not_copied(copies: Copies, storage: FaultyStorage, target: FaultyStorage) -> None:
    await storage.acquire("certificates/a.example", 30)
    await copies.of().run()
    assert await target.acquire("certificates/a.example", 30)


@pytest.mark.parametrize("operation", ["put", "get", "list"])
async def test_interrupted_it_is_gone_on_with(
    copies: Copies, storage: FaultyStorage, target: FaultyStorage, operation: str
) -> None:
    await fill(storage)
    target.break_down(operation, key="b.example") if operation == "put" else storage.break_down(operation)
    with pytest.raises(StorageError):
        await copies.of().run()
    target.repair()
    storage.repair()
    counts = await copies.of().run()
    assert everything(target) == everything(storage)
    assert await due(target) == await due(storage)
    assert counts.copied + counts.same == len(everything(storage))


async def test_what_differs_is_left_and_told(
    copies: Copies, storage: FaultyStorage, target: FaultyStorage, lines: list[str]
) -> None:
    await fill(storage)
    await target.put("a.example", b"newer")
    await target.schedule("renewal", [Due("a.example", 1.0, 2.0)])
    counts = await copies.of().run()
    assert (counts.different, counts.complete) == (1, False)
    assert lines == ["a.example: another value is there already; --overwrite replaces it"]
    assert await target.get("a.example") == b"newer"
    assert await target.scheduled("renewal", "a.example") == Due("a.example", 1.0, 2.0)


async def test_what_differs_is_replaced_where_that_is_wanted(
    copies: Copies, storage: FaultyStorage, target: FaultyStorage, lines: list[str]
) -> None:
    await fill(storage)
    await target.put("a.example", b"older")
    await target.put("other.example", b"stays")
    await target.schedule("renewal", [Due("a.example", 1.0, 2.0)])
    counts = await copies.of(overwrite=True).run()
    assert (counts.replaced, counts.complete, lines) == (1, True, [])
    assert everything(target) == {**everything(storage), "other.example": b"stays"}
    assert await due(target) == await due(storage)


@pytest.mark.parametrize("key", ["a.example", "_state/a.example", "_challenges/dns-01/x"])
async def test_a_target_that_holds_anything_is_refused(copies: Copies, target: FaultyStorage, key: str) -> None:
    await target.put(key, b"x")
    with pytest.raises(StorageError, match=rf"isn't empty: {key} is there. --resume .* --overwrite"):
        await copies.of().check_empty()


async def test_a_target_whose_index_holds_anything_is_refused(copies: Copies, target: FaultyStorage) -> None:
    await target.schedule("renewal", [Due("a.example", 1.0)])
    with pytest.raises(StorageError, match=r"isn't empty: a\.example in the queue renewal"):
        await copies.of().check_empty()


async def test_what_cannot_be_opened_is_told_and_the_rest_copied(
    copies: Copies, storage: FaultyStorage, target: FaultyStorage, lines: list[str], config: Config
) -> None:
    await fill(storage)
    await SealedStorage(storage, Sealer([KEY])).put("a.example", b"secret")
    source = SealedStorage(storage, Sealer())
    counts = await StorageCopy(source, target, Kept(config), lines.append, lambda: None).run()
    assert (counts.unreadable, counts.complete) == (1, False)
    assert len(lines) == 1
    assert lines[0].startswith("can't open a.example: it is sealed with the key")
    assert len(everything(target)) == len(everything(storage)) - 1


async def test_it_is_asked_which_index_the_target_has_before_that_is_filled(
    copies: Copies, storage: FaultyStorage, target: FaultyStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(storage)
    await storage.index_complete()
    await storage.mark_index_complete()
    calls = note_calls(target, monkeypatch, "index_complete", "schedule", "mark_index_complete")
    copy = copies.of()
    await copy.check_empty()
    await copy.run()
    assert calls[0] == "index_complete"
    assert calls[-1] == "mark_index_complete"
    assert set(calls[1:-1]) == {"schedule"}
