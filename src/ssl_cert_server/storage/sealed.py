"""Storage whose values are sealed, over any other storage.

What isn't sealed is read as it is, so that sealing can be switched on for a storage that is in use; without any key,
values are written as they are, and sealed ones are refused instead of being taken for broken ones. Names of keys, the
due index and announcements hold no secrets, and pass through.

A value so long that sealing would make it longer than storage takes is kept in two parts: its end under a key in
``_sealed`` that is used once, written first. So the value still changes in one step. What is left there by such a
value that a short one replaced is a few bytes without a meaning.
"""

from __future__ import annotations

from contextlib import suppress

from ssl_cert_server.errors import NotOpened, StorageError
from ssl_cert_server.storage.base import MAX_VALUE, Lease, Storage, check_value
from ssl_cert_server.storage.seal import OVERHEAD, Form, Sealer, form_of, is_sealed, nonce_of
from ssl_cert_server.storage.wrapper import StorageWrapper

_ENDS = "_sealed"
_READS = 5
"""Of a value in two parts that is replaced between the one and the other."""


class SealedStorage(StorageWrapper):
    """See :class:`~ssl_cert_server.storage.base.Storage`; ``inner`` holds what ``sealer`` made."""

    def __init__(self, inner: Storage, sealer: Sealer) -> None:
        super().__init__(inner)
        self._sealer = sealer

    async def get(self, key: str) -> bytes | None:
        for _ in range(_READS):
            stored = await self._inner.get(key)
            if stored is None or not is_sealed(stored):
                return stored
            if form_of(stored) is Form.WHOLE:
                return self._sealer.open(key, stored)
            end = await self._inner.get(_end_key(stored))
            if end is not None:
                return self._sealer.open(key, stored + end)
        raise NotOpened(f"can't open {key}: its end is missing; restore it from a backup, or remove it")

    async def put(self, key: str, value: bytes, *, lease: Lease | None = None) -> None:
        check_value(key, value)
        if not self._sealer.seals:
            await self._inner.put(key, value, lease=lease)
        elif len(value) + OVERHEAD <= MAX_VALUE:
            await self._inner.put(key, self._sealer.seal(key, value), lease=lease)
        else:
            await self._put_split(key, self._sealer.seal(key, value, Form.SPLIT), lease)

    async def rewrite(self, key: str, *, lease: Lease | None = None) -> bool:
        """Write a value anew, as ``put`` would; tells whether that was needed.

        :raises StorageError: it can't be read, opened or written, and is as before.
        """
        stored = await self._inner.get(key)
        if stored is None or self._sealer.is_current(stored):
            return False
        value = await self.get(key)
        if value is None:
            return False
        await self.put(key, value, lease=lease)
        await self._remove_end(stored)
        return True

    async def is_current(self, key: str) -> bool:
        """Tell whether a value is kept as ``put`` would write it; one that isn't there is.

        :raises StorageError: it can't be read.
        """
        stored = await self._inner.get(key)
        return stored is None or self._sealer.is_current(stored)

    async def _put_split(self, key: str, sealed: bytes, lease: Lease | None) -> None:
        before = await self._inner.get(key)
        end_key = _end_key(sealed)
        await self._inner.put(end_key, sealed[MAX_VALUE:], lease=lease)
        try:
            await self._inner.put(key, sealed[:MAX_VALUE], lease=lease)
        except StorageError:
            # Where the answer was lost, it may have been written all the same.
            with suppress(StorageError):
                if await self._inner.get(key) != sealed[:MAX_VALUE]:
                    await self._inner.delete(end_key)
            raise
        await self._remove_end(before)

    async def _remove_end(self, replaced: bytes | None) -> None:
        if replaced is not None and is_sealed(replaced) and form_of(replaced) is Form.SPLIT:
            with suppress(StorageError):  # the value itself is written
                await self._inner.delete(_end_key(replaced))


def _end_key(sealed: bytes) -> str:
    return f"{_ENDS}/{nonce_of(sealed).hex()}"
