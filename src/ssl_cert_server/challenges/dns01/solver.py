"""Presents dns-01 challenges, and leaves nothing behind."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from ssl_cert_server.challenges.dns01.changes import TURN_DEADLINE, RecordChanges
from ssl_cert_server.challenges.dns01.propagation import Propagation
from ssl_cert_server.challenges.dns01.records import FOLDER, KeptRecord, lease_of, parse_record, txt_value
from ssl_cert_server.challenges.dns01.zones import ZoneProvider, Zones, where
from ssl_cert_server.challenges.hold import Hold, hold
from ssl_cert_server.clock import Clock
from ssl_cert_server.dns.resolver import Resolver
from ssl_cert_server.errors import CertServerError, ChallengeFailed
from ssl_cert_server.storage.base import Lease, Storage
from ssl_cert_server.storage.leasing import LEASE_SECONDS

PROPAGATION_TIMEOUT = 120.0
"""Seconds until every authoritative server must show a value."""

DELEGATION_DEADLINE = 10.0
"""Seconds to find out where a name is delegated to, before it is known whether dns-01 can prove it."""

REMOVALS_DEADLINE = 10.0
"""Seconds that removals under way have when the server stops; the sweep of another one, or the next, does the rest."""

_DROPPED_AFTER = 7 * 86_400.0
_FAILURES = 3
"""Left-overs of one zone that can't be removed, after which a sweep leaves the zone's others for the next time."""

_log = structlog.get_logger()


@dataclass(slots=True)
class _Set:
    """What was, or is being, set: under ``hold`` and by ``zone``'s provider; ``done`` when the provider said so."""

    hold: Hold
    zone: ZoneProvider
    kept: KeptRecord
    done: bool = False


@dataclass(slots=True, eq=False)
class _Challenge:
    """A token that ``users`` orders have presented; a CA may give two orders the same authorization."""

    users: int = 0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    set: _Set | None = None


class _NotConfigured(ChallengeFailed):
    """No provider changes the record at which the CA would look."""


class Dns01:
    """Puts key authorizations' digests into DNS (RFC 8555 section 8.4).

    The record is ``_acme-challenge.<name>``, or where its CNAMEs lead. What is about to be set is kept in storage
    before the provider hears of it, and a lease is held on it until it is removed: what no living instance holds,
    :meth:`remove_left_over` removes from DNS. Changes to one record are made one at a time over all instances, so
    that no provider that reads and writes whole record sets loses a value.
    """

    type = "dns-01"

    def __init__(
        self,
        storage: Storage,
        clock: Clock,
        resolver: Resolver,
        zones: Sequence[ZoneProvider],
        *,
        propagation_timeout: float = PROPAGATION_TIMEOUT,
    ) -> None:
        """``propagation_timeout`` is in seconds, counted from when the provider took the value."""
        self._storage = storage
        self._clock = clock
        self._resolver = resolver
        self._zones = Zones(zones)
        self._propagation_timeout = propagation_timeout
        self._challenges: dict[str, _Challenge] = {}
        self._changes = RecordChanges(storage, clock)
        self._removals: set[asyncio.Task[None]] = set()

    def handles(self, name: str) -> bool:
        """Tell whether there is a provider for the zone of a name (without ``*.``)."""
        return self._zones.holding(_record(name)) is not None

    async def obstacle(self, name: str) -> str | None:
        """Say why a name (without ``*.``) can't be proven here; None where it can.

        It can where its own zone is configured, or where the CNAMEs of its record lead into one that is. That DNS
        doesn't tell in time is an obstacle, too.
        """
        if self.handles(name):
            return None
        try:
            async with asyncio.timeout(DELEGATION_DEADLINE):
                await self._place(name)
        except TimeoutError:
            reason = f"DNS did not tell within {DELEGATION_DEADLINE:g} s where {_record(name)} is delegated to"
        except _NotConfigured as error:
            return str(error)  # the usual case, where another challenge is meant for the name
        except ChallengeFailed as error:
            reason = str(error)
        else:
            return None
        _log.warning("challenge.dns01.delegation_unknown", name=name, reason=reason)
        return reason

    async def present(self, name: str, token: str, key_authorization: str) -> None:
        """Set the value, and return when every authoritative server shows it.

        :raises ChallengeFailed: there is no provider for the record, it refused, or a server doesn't show the value.
        :raises StorageError: what is to be set can't be kept, so it wasn't.
        """
        challenge = self._challenges.setdefault(token, _Challenge())
        challenge.users += 1
        async with challenge.turn:
            if challenge.set is None:
                challenge.set = await self._begin(name, txt_value(key_authorization))
            begun = challenge.set
            if not begun.done:
                await self._changes.add(begun.kept, begun.zone.provider, begun.hold.lease)
                begun.done = True
                _log.info("challenge.dns01.presented", name=name, record=begun.kept.record, zone=begun.zone.zone)
        await self._wait(begun)

    async def cleanup(self, name: str, token: str) -> None:  # noqa: ARG002 - the token is unique
        """Remove the value, when nobody uses it any more; what can't be removed now is tried again by the sweep.

        Whoever can't wait for it may leave: a provider that is slow isn't cut off in the middle of its change.

        :raises ChallengeFailed: the provider refused or can't be reached.
        :raises StorageError: storage can't be written.
        """
        challenge = self._challenges.get(token)
        if challenge is None:
            return
        challenge.users -= 1
        if challenge.users:
            return
        del self._challenges[token]
        if challenge.set is None:
            return
        removal = asyncio.create_task(self._remove(challenge.set))
        self._removals.add(removal)
        removal.add_done_callback(self._removed)
        await asyncio.shield(removal)

    async def close(self) -> None:
        """Let the removals under way come to an end, for a while."""
        if self._removals:
            _, late = await asyncio.wait(self._removals, timeout=REMOVALS_DEADLINE)
            for removal in late:
                removal.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def remove_left_over(self) -> bool:
        """Remove from DNS what instances that are gone, or clean-ups that failed, left there.

        What a living instance uses stays. What can't be removed now stays kept for the next time, and is forgotten
        after a week. True where some stayed under a lease: its holder may have died a moment ago.

        :raises StorageError: storage can't be read or written now.
        """
        failures: Counter[str] = Counter()
        held = False
        async for key in self._storage.list(FOLDER):
            lease = await self._storage.acquire(lease_of(key), LEASE_SECONDS)
            if lease is None:
                held = True
                continue
            try:
                await self._sweep(key, lease, failures)
            finally:
                await self._storage.release(lease)
        return held

    async def _remove(self, begun: _Set) -> None:
        try:
            await self._changes.remove(begun.kept, begun.zone.provider, begun.hold.lease)
        except CertServerError as error:
            _log.warning("challenge.dns01.not_removed", record=begun.kept.record, reason=str(error))
            raise
        finally:
            await begun.hold.let_go()

    def _removed(self, removal: asyncio.Task[None]) -> None:
        self._removals.discard(removal)
        if not removal.cancelled():
            removal.exception()  # logged; whoever waited for it may have left

    async def _place(self, name: str) -> tuple[str, ZoneProvider]:
        """Find the record at which the CA will look for a name's values, and who changes it."""
        own = _record(name)
        record = await where(self._resolver, own)
        # The delegated zone's provider; else the one for the name, which then is meant for where it is delegated to.
        zone = self._zones.holding(record) or self._zones.holding(own)
        if zone is None:
            elsewhere = "and no CNAME delegates it" if record == own else f"nor for {record}, where it is delegated to"
            raise _NotConfigured(f"no dns-01 provider is configured for {own}, {elsewhere}")
        return record, zone

    async def _begin(self, name: str, value: str) -> _Set:
        record, zone = await self._place(name)
        kept = KeptRecord(record, value, zone.zone, self._clock.now())
        try:
            async with asyncio.timeout(TURN_DEADLINE):
                held = await hold(self._storage, lease_of(kept.key), self._clock)
        except TimeoutError as error:
            words = f"{record} is still in use by another instance for the same challenge after {TURN_DEADLINE:g} s"
            raise ChallengeFailed(words) from error
        return _Set(held, zone, kept)

    async def _wait(self, begun: _Set) -> None:
        started = self._clock.monotonic()
        propagation = Propagation(self._resolver, self._clock, begun.kept.record, begun.kept.value)
        servers = await propagation.wait(begun.zone.nameservers, self._propagation_timeout)
        seconds = round(self._clock.monotonic() - started, 1)
        _log.info("challenge.dns01.propagated", record=begun.kept.record, servers=servers, seconds=seconds)

    async def _sweep(self, key: str, lease: Lease, failures: Counter[str]) -> None:
        """Remove one left-over; ``failures`` counts those of each zone in this sweep, as calls to a provider cost."""
        kept = parse_record(await self._storage.get(key))
        if kept is None or kept.key != key:
            await self._storage.delete(key, lease=lease)
            return
        zone = self._zones.named(kept.zone) or self._zones.holding(kept.record)
        if zone is None:
            reason = "no dns-01 zone is configured for it any more; remove it by hand"
        elif failures[zone.zone] >= _FAILURES:
            reason = f"{_FAILURES} others could not be removed just now"
        else:
            try:
                await self._changes.remove(kept, zone.provider, lease)
            except CertServerError as error:
                failures[zone.zone] += 1
                reason = str(error)
            else:
                _log.info("challenge.dns01.left_over_removed", record=kept.record)
                return
        if kept.created < self._clock.now() - _DROPPED_AFTER:
            await self._storage.delete(key, lease=lease)
            _log.warning("challenge.dns01.left_over_forgotten", record=kept.record, zone=kept.zone, reason=reason)
        else:
            _log.warning("challenge.dns01.not_removed", record=kept.record, reason=reason)


def _record(name: str) -> str:
    return f"_acme-challenge.{name}"
