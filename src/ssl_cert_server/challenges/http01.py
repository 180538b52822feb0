"""http-01 (RFC 8555 section 8.3): key authorizations, kept where every instance finds them."""

from __future__ import annotations

import json
import re

from ssl_cert_server.challenges import left_over
from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import StorageError
from ssl_cert_server.storage.base import Storage

_FOLDER = "_challenges/http-01"
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,200}")


class Http01Responder:
    """Presents challenges for the ACME engine, and answers the CA's visits."""

    type = "http-01"

    def __init__(self, storage: Storage, clock: Clock) -> None:
        self._storage = storage
        self._clock = clock
        self._pending: dict[str, str] = {}

    async def present(self, name: str, token: str, key_authorization: str) -> None:
        """Make the challenge answerable by every instance.

        :raises StorageError: it can't be kept.
        """
        record = {"name": name, "key_authorization": key_authorization, "created": self._clock.now()}
        await self._storage.put(_key(token), json.dumps(record).encode())
        self._pending[token] = key_authorization

    async def cleanup(self, name: str, token: str) -> None:  # noqa: ARG002 - the token is unique
        """Stop answering a challenge.

        :raises StorageError: it can't be removed; it is harmless, and removed at a later start.
        """
        self._pending.pop(token, None)
        await self._storage.delete(_key(token))

    async def answer(self, token: str) -> str | None:
        """Give the key authorization for a token that is pending at any instance, or None.

        The token alone decides, whatever the Host: CAs follow redirects to other names of the same site.

        :raises StorageError: the other instances' tokens can't be read now.
        """
        if token in self._pending:
            return self._pending[token]
        if not _TOKEN.fullmatch(token):
            return None
        return _parse(await self._storage.get(_key(token)))

    async def remove_left_over(self) -> None:
        """Remove what instances that were killed left behind a week ago.

        :raises StorageError: storage can't be read or written now.
        """
        await left_over.remove_left_over(self._storage, _FOLDER, self._clock)


def _key(token: str) -> str:
    if not _TOKEN.fullmatch(token):
        raise StorageError("the CA's challenge token is not base64url, so it can't be kept")
    return f"{_FOLDER}/{token}"


def _parse(stored: bytes | None) -> str | None:
    try:
        return str(json.loads(stored or b"")["key_authorization"])
    except (ValueError, TypeError, KeyError):
        return None
