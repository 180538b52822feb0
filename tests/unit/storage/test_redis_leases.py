"""What an instance remembers of calls to Redis that were given up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pytest

from ssl_cert_server.errors import StorageError
from ssl_cert_server.storage.redis import leases
from ssl_cert_server.storage.redis.client import Client
from ssl_cert_server.storage.redis.keys import Keys
from ssl_cert_server.storage.redis.leases import Leases


class Deaf:
    """A Redis that doesn't answer; it keeps what the last call sent."""

    def __init__(self) -> None:
        self.sent: list[object] = []

    async def run(self, what: str, script: object, keys: Sequence[object], args: Sequence[object]) -> None:
        self.sent = [*args]
        raise StorageError(f"{what}: no answer")


async def test_calls_that_were_given_up_are_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "_MOST_GIVEN_UP", (2, 3))
    redis = Deaf()
    held = Leases(cast("Client", redis), Keys("prefix:"), "instance")

    async def given_up(name: str) -> int:
        with pytest.raises(StorageError):
            await held.acquire(name, 30)
        return len(redis.sent) - 3

    assert [await given_up("a") for _ in range(5)] == [0, 1, 2, 3, 3]
    assert [await given_up(name) for name in ("b", "c", "a", "c")] == [0, 0, 0, 1]
