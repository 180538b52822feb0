"""Names in Redis: values stand where the predecessor had them, our own books where no storage key can be.

A storage key has no space, so ``<prefix> leases ...`` is none, whatever prefix another deployment on the same database
has. All names begin with the prefix: a hash tag in it brings all of them into one slot of a Cluster.
"""

from __future__ import annotations

import re

from ssl_cert_server.errors import StorageError
from ssl_cert_server.storage.base import check_key

_GLOB = re.compile(r"([\\*?\[\]])")


class Keys:
    """The names of everything, under one prefix."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.given_up = f"{prefix} given-up"
        self.last_token = f"{prefix} last-token"
        self.changes = f"{prefix} changes"
        self.touched = f"{prefix} touched"
        self.complete = f"{prefix} due-complete"
        self.probe = f"{prefix} probe"
        self.top_level = _GLOB.sub(r"\\\1", prefix) + "*"
        """A pattern that finds all values, and more."""

    def value(self, key: str) -> str:
        check_key(key)
        return self._prefix + key

    def folder(self, folder: str) -> str:
        """The set of what stands directly in a folder."""
        check_key(folder)
        return f"{self._prefix} folder {folder}"

    def lease(self, name: str) -> str:
        check_key(name)
        return f"{self._prefix} lease {name}"

    def queue(self, queue: str) -> list[str]:
        """Those of a queue of the due index: later, waiting, ready, ranks."""
        if len(check_key(queue)) != 1:
            raise StorageError(f"{queue[:80]!r} can't be a queue: it must be one segment")
        return [f"{self._prefix} due {queue} {part}" for part in ("later", "waiting", "ready", "ranks")]

    def top_level_key(self, found: bytes) -> str | None:
        """Give the storage key of a name that a scan found, or None where it is none of the top level."""
        try:
            key = found.decode("ascii").removeprefix(self._prefix)
            return key if len(check_key(key)) == 1 else None
        except (UnicodeDecodeError, StorageError):
            return None
