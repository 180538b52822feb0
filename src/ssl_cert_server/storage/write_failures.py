"""Which writes failed: kinds of write, and single keys that fail while others of their kind work. Does no I/O."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace

from ssl_cert_server.errors import StorageError

_MOST_SINGLE = 1_000
"""Single keys in memory. A failure of one that was dropped counts as a failure of its kind, until that works again."""

BETWEEN_PROBES = 1.0
"""Seconds for which a result is relied on: a failure as well as a success."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What is written: a ``value`` in a top-level folder, an ``entry`` in a queue, or a ``lease`` in a folder."""

    what: str
    place: str


@dataclass(frozen=True, slots=True)
class Failure:
    """Failures of a kind since a write of it last worked: the last ``reason``, and the ``keys`` that failed."""

    reason: str
    keys: frozenset[str]
    since: float
    """Monotonic seconds of the first failure, or of the last probe. Later failures must not put the next probe off."""


class WriteFailures:
    """Tells a kind of write that fails from a single key that does.

    Any failure counts as one of its kind, until a write of that kind works. If the failed key fails again after that,
    the key alone is at fault: the failure only leaves a doubt about its kind, which :attr:`doubted` holds for a probe.
    """

    def __init__(self) -> None:
        self.failing: dict[Kind, Failure] = {}
        self.doubted: set[Kind] = set()
        self._single: OrderedDict[tuple[Kind, str], bool] = OrderedDict()
        """Whether it failed again, by kind and key."""
        self._worked_at: dict[Kind, float] = {}

    def failed(self, kind: Kind, key: str, reason: str, now: float) -> bool:
        """Record a failed write; return whether it is the first of its kind, or of a single key, and is to be logged.

        ``key`` is empty where the write is not about one key, or where it is a probe's.
        """
        if self.is_single(kind, key):
            return self._failed_alone(kind, key, now)
        before = self.failing.get(kind)
        keys = before.keys if before else frozenset()
        if key and len(keys) < _MOST_SINGLE:
            keys |= {key}
        self.failing[kind] = Failure(reason, keys, before.since if before else now)
        self.doubted.discard(kind)
        return before is None

    def probe_due(self, now: float) -> list[Kind]:
        """Return the kinds to probe now, before anything is begun that needs them.

        :raises StorageError: a kind fails that was probed, or failed first, only just now.
        """
        for failure in self.failing.values():
            if now - failure.since < BETWEEN_PROBES:
                raise StorageError(failure.reason)
        for kind, failure in self.failing.items():
            self.failing[kind] = replace(failure, since=now)
        return [*self.failing, *self.doubted]

    def worked(self, kind: Kind, key: str, now: float) -> bool:
        """Record a write that worked; return whether its kind failed before."""
        failure = self.failing.pop(kind, None)
        self.doubted.discard(kind)
        self._worked_at[kind] = now
        for failed in failure.keys if failure else ():
            self._single.setdefault((kind, failed), False)
        self._single.pop((kind, key), None)
        while len(self._single) > _MOST_SINGLE:
            self._single.popitem(last=False)
        return failure is not None

    def is_single(self, kind: Kind, key: str) -> bool:
        """Return whether a key failed while others of its kind worked."""
        return (kind, key) in self._single

    def _failed_alone(self, kind: Kind, key: str, now: float) -> bool:
        if kind not in self.failing and now - self._worked_at[kind] >= BETWEEN_PROBES:
            self.doubted.add(kind)
        news = not self._single[kind, key]
        self._single[kind, key] = True
        return news
