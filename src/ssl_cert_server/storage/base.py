"""The storage contract: what every backend promises, and what the rest of the server relies on."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from ssl_cert_server.errors import StorageError

MAX_VALUE = 4 * 1024 * 1024
"""Bytes a value may have; a longer one was never ours."""

CHANGES_KEPT = 10_000
"""Announcements that are remembered, at least; who was away for more is told to start over."""

_SEGMENT = re.compile(r"[!-\-0-\[\]-~][!-.0-\[\]-~]{0,254}")


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on something alone, for a while.

    ``token`` is the fencing token: of two leases ever given for one name, the later has the greater token.
    """

    name: str
    token: int


@dataclass(frozen=True, slots=True)
class Due:
    """An entry of the due index.

    ``key`` comes up at ``at`` (Unix seconds); of those that are due the lowest ``rank`` goes first.
    """

    key: str
    at: float
    rank: float = 0.0


@dataclass(frozen=True, slots=True)
class Changes:
    """What was announced up to ``cursor``: ``keys``, each once.

    Where ``reset`` is set, some of it is forgotten, and anything may have changed.
    """

    cursor: str
    keys: tuple[str, ...] = ()
    reset: bool = False


class Storage(Protocol):
    """Keys and bytes, shared by any number of instances, with leases, a due index, and news of changes.

    Keys
        One to four segments joined by ``/``, each 1 to 255 printable ASCII characters without ``/``, ``\\`` and
        space, not starting with a dot. Top-level keys are the predecessor's: ``<name>``, ``<name>+rsa``,
        ``acme_account+key``, a managed ``cert_key``. Folders starting with an underscore are ours; no host name can
        collide with them.

    Reading and writing
        ``put`` replaces the whole value atomically: a reader, in any instance, sees the old value or the new one,
        never a part or a mixture, and every ``get`` that starts after ``put`` returned sees the new one. When
        ``put`` returns, the value survives a crash of the process and of the machine. ``get`` of a key that isn't
        there gives None; ``delete`` of one does nothing. ``list`` may miss or include keys written while it runs.

    Leases
        ``acquire`` gives a lease or None at once; it never waits. A lease is held until it is released, its time
        lapses without ``renew``, or its holder is known to be dead. A holder may find out late that it lost its
        lease, so a ``put`` or ``delete`` made under a lease is checked against it in one atomic step and refused
        with :class:`~ssl_cert_server.errors.LeaseLost` once another holder took over. Leases are not re-entrant:
        they exclude tasks of one process, too.

    Due index
        Queues of keys by time: ``schedule`` says when a key comes up next, in place of what was said before. ``claim``
        takes what is due, each entry for one claimer only, over all instances. A claimed entry comes up again after
        the claim's ``seconds``, unless it is scheduled anew or taken out: what a claimer died with is not lost, and
        who works for longer schedules it later. Times are the caller's wall clock; nothing else is made of them.
        When ``schedule`` returns, the entry survives a crash of the process and of the machine. Entries and values
        know nothing of each other: where the index was lost, or never was, ``index_complete`` says so, and whoever
        knows what the values mean schedules them anew, and then says so by ``mark_index_complete``. That is about the
        index which this instance asked about last: what was scheduled into one that was lost meanwhile is not in the
        one that took its place. So it is asked about before it is filled, or can't be marked. Work per call is
        proportional to what is claimed or scheduled, or to its logarithm.

    Changes
        ``announce`` tells every instance, its own too, that what belongs to keys was changed. ``changes`` gives what
        was announced after a cursor, in order, waiting for it for a while; at least :data:`CHANGES_KEPT` are kept.
        An announcement may be lost with the machine it was made on, for it is a hint: who needs certainty reads.

    Failure
        Everything that goes wrong is a :class:`~ssl_cert_server.errors.StorageError` naming the key and the reason;
        the data of before is untouched. Every call ends within a bounded time. Where another process holds a lock
        that a call needs, that bound is a fraction of the time of a lease (``leasing.LEASE_SECONDS``). ``get`` and
        ``list`` need no lock, and don't wait for calls that do.

    Cancellation
        A cancelled ``put`` or ``delete`` has happened or has not; it is never torn. A cancelled ``acquire`` leaves
        at worst a lease that lapses by itself.
    """

    async def get(self, key: str) -> bytes | None:
        """Read a value."""

    async def put(self, key: str, value: bytes, *, lease: Lease | None = None) -> None:
        """Write a value durably, under a lease where one is given."""

    async def delete(self, key: str, *, lease: Lease | None = None) -> None:
        """Remove a key, under a lease where one is given."""

    def list(self, folder: str = "") -> AsyncIterator[str]:
        """Iterate over the keys directly in ``folder`` (the top level where it is empty), in no order."""

    async def acquire(self, name: str, seconds: float) -> Lease | None:
        """Take the lease ``name`` for ``seconds``, or give None where somebody holds it. ``name`` is like a key."""

    async def renew(self, lease: Lease, seconds: float) -> None:
        """Hold on to a lease for ``seconds`` from now; raises LeaseLost where another took over."""

    async def release(self, lease: Lease) -> None:
        """Give a lease back; one that was lost is simply gone."""

    async def schedule(self, queue: str, entries: Sequence[Due]) -> None:
        """Have keys come up in ``queue`` (a key's segment), each in place of the entry there was for it."""

    async def unschedule(self, queue: str, keys: Sequence[str]) -> None:
        """Take keys out of ``queue``; one that isn't there is none the less out."""

    async def scheduled(self, queue: str, key: str) -> Due | None:
        """Give a key's entry, or None."""

    async def claim(self, queue: str, *, now: float, limit: int, seconds: float) -> Sequence[Due]:
        """Take at most ``limit`` of what is due at ``now``, the lowest rank first; see above for ``seconds``."""

    async def next_due(self, queue: str) -> float | None:
        """Give when the next entry comes up (Unix seconds), claimed ones included; None where there is none."""

    def list_due(self, queue: str) -> AsyncIterator[Due]:
        """Iterate over all entries of ``queue``, in no order."""

    async def index_complete(self) -> bool:
        """Tell whether somebody said that the index knows of everything stored, and it was not lost since."""

    async def mark_index_complete(self) -> None:
        """Say so of the index that this instance's last ``index_complete`` was about.

        It doesn't count, or StorageError is raised, where that was lost since; the latter where there was no such call.
        """

    async def announce(self, keys: Sequence[str]) -> None:
        """Tell every instance that what belongs to these keys was changed."""

    async def changes(self, cursor: str, wait: float) -> Changes:
        """Give what was announced after ``cursor``, waiting for ``wait`` seconds at most where there is nothing.

        An empty ``cursor`` gives the present one at once, and no keys. One that makes no sense is too old, and so is
        one from before an older state of the storage was restored, however much was announced since.
        """

    async def check_writable(self) -> None:
        """Raise StorageError unless values, leases and entries of the due index could be written durably now."""

    async def close(self) -> None:
        """Let go of everything held; leases of this instance lapse."""


def check_value(key: str, value: bytes) -> None:
    """:raises StorageError: the value is longer than :data:`MAX_VALUE`."""
    if len(value) > MAX_VALUE:
        raise StorageError(f"can't write {key}: {len(value)} bytes are more than {MAX_VALUE}")


def never_asked() -> StorageError:
    """What ``mark_index_complete`` raises where ``index_complete`` was never called."""
    return StorageError("can't mark the due index as complete: nobody asked, before it was filled, whether it is")


def check_key(key: str) -> list[str]:
    """Split a key (or a lease's name) into its segments.

    :raises StorageError: the key breaks the contract's rules.
    """
    segments = key.split("/")
    if len(segments) > 4 or not all(_SEGMENT.fullmatch(segment) for segment in segments):
        raise StorageError(f"{key[:80]!r} can't be a storage key")
    return segments
