"""Values, and the folders they stand in."""

from __future__ import annotations

from collections.abc import AsyncIterator

from ssl_cert_server.errors import LeaseLost, StorageError
from ssl_cert_server.storage.base import MAX_VALUE, Lease, check_value
from ssl_cert_server.storage.redis.client import Client, Script
from ssl_cert_server.storage.redis.connection import Word
from ssl_cert_server.storage.redis.given_up import GivenUp
from ssl_cert_server.storage.redis.keys import Keys
from ssl_cert_server.storage.redis.scripts import DELETE, PUT

_BATCH = 1000
_PROBE = bytes(16 * 1024)
_PROBE_SECONDS = 60


class Values:
    """Strings under the predecessor's names. What stands in a folder is in a set, too: to list it costs no scan."""

    def __init__(self, client: Client, keys: Keys, given_up: GivenUp) -> None:
        self._client = client
        self._keys = keys
        self._given_up = given_up

    async def get(self, key: str) -> bytes | None:
        name = self._keys.value(key)
        # No more than is allowed is transferred.
        value: bytes | None = await self._client.command(f"read {key}", "GETRANGE", name, 0, MAX_VALUE)
        if not value:  # empty, or not there
            value = await self._client.command(f"read {key}", "GET", name)
        if value is not None and len(value) > MAX_VALUE:
            raise StorageError(f"can't read {key}: more than {MAX_VALUE} bytes, so not a certificate or state of ours")
        return value

    async def put(self, key: str, value: bytes, lease: Lease | None) -> None:
        check_value(key, value)
        await self._write(f"write {key}", PUT, key, lease, value)

    async def delete(self, key: str, lease: Lease | None) -> None:
        await self._write(f"delete {key}", DELETE, key, lease)

    async def _write(self, what: str, script: Script, key: str, lease: Lease | None, *value: bytes) -> None:
        name = self._keys.value(key)
        folder, _, child = key.rpartition("/")
        names = [
            self._keys.given_up,
            name,
            self._keys.folder(folder) if folder else name,
            self._keys.lease(lease.name) if lease else name,
        ]
        args: list[Word] = [str(lease.token) if lease else "", child if folder else "", *value]
        reply = await self._given_up.run(
            key, lambda start: self._client.run(what, script, names, [*start, *args], durable=True)
        )
        if reply == b"lost" and lease is not None:
            raise LeaseLost(f"the lease {lease.name} was taken over by another instance")

    def list(self, folder: str) -> AsyncIterator[str]:
        return self._list_folder(folder) if folder else self._list_top_level()

    async def _list_folder(self, folder: str) -> AsyncIterator[str]:
        name = self._keys.folder(folder)
        cursor, seen = b"0", set[bytes]()
        while True:
            cursor, found = await self._client.command(f"list {folder}", "SSCAN", name, cursor, "COUNT", _BATCH)
            for child in found:
                if child not in seen:
                    seen.add(child)
                    yield f"{folder}/{child.decode()}"
            if cursor == b"0":
                return

    async def _list_top_level(self) -> AsyncIterator[str]:
        cursor, seen = b"0", set[str]()
        options: list[Word] = ["MATCH", self._keys.top_level, "COUNT", _BATCH, "TYPE", "string"]
        while True:
            cursor, found = await self._client.command("list the keys", "SCAN", cursor, *options)
            for name in found:
                key = self._keys.top_level_key(name)
                if key is not None and key not in seen:  # a scan may tell one twice
                    seen.add(key)
                    yield key
            if cursor == b"0":
                return

    async def check_writable(self) -> None:
        await self._client.command("write", "SET", self._keys.probe, _PROBE, "EX", _PROBE_SECONDS, durable=True)
