"""Sealed storage: the whole contract over it, and what sealing promises besides."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ssl_cert_server.errors import LeaseLost, StorageError
from ssl_cert_server.storage.base import MAX_VALUE, Lease, Storage
from ssl_cert_server.storage.memory import MemoryStorage
from ssl_cert_server.storage.seal import MAGIC, OVERHEAD, Sealer, SealKey, is_sealed
from ssl_cert_server.storage.sealed import SealedStorage
from tests.support.clock import ManualClock
from tests.support.faulty_storage import FaultyStorage
from tests.unit.storage import test_contract
from tests.unit.storage.conftest import Backend

globals().update({name: test for name, test in vars(test_contract).items() if name.startswith("test_")})

OLD, NEW, OTHER = (SealKey(bytes([number]) * 32) for number in (1, 2, 3))
PEM = b"-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY-----\n"
SPLIT = MAX_VALUE - OVERHEAD + 1
"""The smallest size of a value that is kept in two parts."""


class SealedBackend(Backend):
    """Every other instance has the keys the other way round, as while a key is being changed."""

    _opened_before = 0

    def open(self) -> Storage:
        self._opened_before += 1
        keys = (NEW, OLD) if self._opened_before % 2 else (OLD, NEW)
        return SealedStorage(super().open(), Sealer(keys))


@pytest.fixture(params=["memory", "directory"])
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    backend = SealedBackend(request.param, tmp_path / "storage")
    yield backend
    await backend.close()


@pytest.fixture
def inner() -> FaultyStorage:
    return FaultyStorage(ManualClock())


def sealed(inner: Storage, *keys: SealKey) -> SealedStorage:
    return SealedStorage(inner, Sealer(keys))


# --- what lies in storage


async def test_nothing_of_a_value_is_in_what_is_stored(inner: MemoryStorage) -> None:
    await sealed(inner, NEW).put("a.example", PEM)
    stored = await inner.get("a.example")
    assert stored is not None
    assert stored.startswith(MAGIC)
    assert len(stored) == len(PEM) + OVERHEAD
    assert b"PRIVATE" not in stored
    assert NEW.secret not in stored


async def test_the_same_value_looks_different_each_time(inner: MemoryStorage) -> None:
    seen = set()
    for _ in range(20):
        await sealed(inner, NEW).put("a.example", PEM)
        seen.add(await inner.get("a.example"))
    assert len(seen) == 20


@pytest.mark.parametrize("value", [PEM, b"{}", b"", b"\0" * 100, b"[1]", b"\xff"])
async def test_what_is_unsealed_is_read_as_it_is(inner: MemoryStorage, value: bytes) -> None:
    await inner.put("key", value)
    assert not is_sealed(value)
    assert await sealed(inner, NEW).get("key") == value
    assert await sealed(inner).get("key") == value


async def test_without_a_key_values_are_written_unsealed(inner: MemoryStorage) -> None:
    await sealed(inner).put("key", PEM)
    assert await inner.get("key") == PEM


async def test_the_first_key_seals_and_all_open(inner: MemoryStorage) -> None:
    await sealed(inner, OLD).put("key", PEM)
    both = sealed(inner, NEW, OLD)
    assert await both.get("key") == PEM
    await both.put("key", PEM)
    assert await sealed(inner, NEW).get("key") == PEM


def test_neither_a_key_nor_its_repr_tells_what_it_is() -> None:
    assert NEW.secret.hex() not in repr(NEW) + NEW.id.hex()
    assert "\\x02" not in repr(NEW)
    with pytest.raises(ValueError, match="32 bytes"):
        SealKey(b"short")


# --- what can't be opened


@pytest.mark.parametrize("keys", [(), (NEW,), (NEW, OTHER)])
async def test_an_unknown_key_is_an_error_with_a_remedy(inner: MemoryStorage, keys: tuple[SealKey, ...]) -> None:
    await sealed(inner, OLD).put("a.example", PEM)
    with pytest.raises(StorageError) as failure:
        await sealed(inner, *keys).get("a.example")
    assert str(failure.value) == (
        f"can't open a.example: it is sealed with the key {OLD.id.hex()}, which is not one of storage.seal.keys; "
        "list that key, too"
    )


async def test_a_value_moved_to_another_key_does_not_open(inner: MemoryStorage) -> None:
    storage = sealed(inner, NEW)
    await storage.put("a.example", PEM)
    stored = await inner.get("a.example")
    assert stored is not None
    await inner.put("b.example", stored)
    with pytest.raises(StorageError, match=r"can't open b\.example: .*sealed for another key"):
        await storage.get("b.example")
    assert await storage.get("a.example") == PEM


@pytest.mark.parametrize("position", [*range(len(MAGIC), OVERHEAD - 16), -1, -16, -17])
async def test_no_byte_can_be_changed(inner: MemoryStorage, position: int) -> None:
    storage = sealed(inner, NEW, OLD)
    await storage.put("a.example", PEM)
    stored = bytearray(await inner.get("a.example") or b"")
    stored[position] ^= 1
    await inner.put("a.example", bytes(stored))
    with pytest.raises(StorageError, match=r"can't open a\.example"):
        await storage.get("a.example")


@pytest.mark.parametrize("length", range(len(MAGIC), OVERHEAD + len(PEM)))
async def test_nothing_can_be_cut_off(inner: MemoryStorage, length: int) -> None:
    storage = sealed(inner, NEW)
    await storage.put("a.example", PEM)
    await inner.put("a.example", (await inner.get("a.example") or b"")[:length])
    with pytest.raises(StorageError, match=r"can't open a\.example"):
        await storage.get("a.example")


# --- values of the greatest size


@pytest.mark.parametrize("size", [SPLIT - 1, SPLIT, MAX_VALUE - 1, MAX_VALUE])
async def test_the_longest_values_are_kept_whole_and_replaced(inner: MemoryStorage, size: int) -> None:
    storage = sealed(inner, NEW)
    for value in (os.urandom(size), os.urandom(size)):
        await storage.put("key", value)
        assert await storage.get("key") == value
    assert len([key async for key in inner.list("_sealed")]) == (1 if size >= SPLIT else 0)
    assert [key async for key in storage.list()] == ["key"]
    await storage.put("key", b"short")
    assert await storage.get("key") == b"short"


async def test_a_value_in_two_parts_is_read_whole_while_it_is_replaced(inner: FaultyStorage) -> None:
    storage = sealed(inner, NEW)
    first, second = os.urandom(SPLIT), os.urandom(SPLIT)
    await storage.put("key", first)

    class Replaced(FaultyStorage):
        """Between the two reads of one value, another is put in its place."""

        async def get(self, key: str) -> bytes | None:
            if key.startswith("_sealed/") and not replaced:
                replaced.append(key)
                await storage.put("key", second)
            return await inner.get(key)

    replaced: list[str] = []
    assert await sealed(Replaced(ManualClock()), NEW).get("key") == second
    assert replaced


async def test_an_end_that_is_missing_is_told(inner: MemoryStorage) -> None:
    storage = sealed(inner, NEW)
    await storage.put("key", bytes(SPLIT))
    (end,) = [key async for key in inner.list("_sealed")]
    await inner.delete(end)
    with pytest.raises(StorageError, match="can't open key: its end is missing"):
        await storage.get("key")


async def test_a_failed_put_of_a_long_value_leaves_the_old_one_and_nothing_else(inner: FaultyStorage) -> None:
    storage = sealed(inner, NEW)
    await storage.put("key", b"old")
    inner.break_down("put", key="key")
    with pytest.raises(StorageError):
        await storage.put("key", bytes(SPLIT))
    inner.repair()
    assert await storage.get("key") == b"old"
    assert [key async for key in inner.list("_sealed")] == []


async def test_a_long_value_under_a_lost_lease_is_refused(inner: MemoryStorage) -> None:
    storage = sealed(inner, NEW)
    with pytest.raises(LeaseLost):
        await storage.put("key", bytes(SPLIT), lease=Lease("work", 7))
    assert [key async for key in inner.list("_sealed")] == []


# --- rewriting


async def test_rewriting_seals_what_is_unsealed_and_what_another_key_sealed_once(inner: MemoryStorage) -> None:
    await inner.put("plain", PEM)
    await sealed(inner, OLD).put("old", PEM)
    storage = sealed(inner, NEW, OLD)
    for key in ("plain", "old"):
        assert not await storage.is_current(key)
        assert await storage.rewrite(key)
        assert await storage.is_current(key)
        assert not await storage.rewrite(key)
        assert await sealed(inner, NEW).get(key) == PEM
    assert not await storage.rewrite("nothing")
    assert await storage.is_current("nothing")


async def test_rewriting_unseals_where_that_is_wanted(inner: MemoryStorage) -> None:
    await sealed(inner, OLD).put("key", PEM)
    await sealed(inner, NEW).put("long", bytes(MAX_VALUE))
    storage = SealedStorage(inner, Sealer((NEW, OLD), seal=False))
    for key, value in (("key", PEM), ("long", bytes(MAX_VALUE))):
        assert await storage.rewrite(key)
        assert not await storage.rewrite(key)
        assert await inner.get(key) == value
    assert [key async for key in inner.list("_sealed")] == []


async def test_what_cannot_be_opened_is_not_rewritten(inner: MemoryStorage) -> None:
    await sealed(inner, OTHER).put("key", PEM)
    before = await inner.get("key")
    with pytest.raises(StorageError, match="can't open key"):
        await sealed(inner, NEW).rewrite("key")
    assert await inner.get("key") == before
