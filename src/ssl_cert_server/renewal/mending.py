"""Plans anew what isn't planned of a certificate, or can't have been by a right clock, and nothing else."""

from __future__ import annotations

from ssl_cert_server.clock import Clock
from ssl_cert_server.model import Certificate
from ssl_cert_server.renewal.plan import (
    EXPIRIES,
    GIVEN_UP_AFTER,
    PARKED,
    QUESTIONS,
    RENEWALS,
    STAPLES,
    RenewalPlan,
    Stored,
    rank_of,
)
from ssl_cert_server.renewal.schedule import CLOCKS_DIFFER, LONGEST_WAIT, WARNED_EVERY
from ssl_cert_server.storage.base import Due, Storage

_LONGEST_STAPLED = 8 * 86_400.0
"""Seconds within which a responder is asked again: CAs' words live for ten days at most, and are replaced half-way."""


class Mending:
    """Compares what is planned with the stored certificates."""

    def __init__(self, plan: RenewalPlan, storage: Storage, clock: Clock) -> None:
        self._plan = plan
        self._storage = storage
        self._clock = clock

    async def mend(self, stored: Stored) -> None:
        """Plan what isn't planned.

        :raises StorageError: the plan can't be read or kept.
        """
        await self._plan.keep(await self.lacking(stored))

    async def lacking(self, stored: Stored) -> dict[str, Due]:
        """Give the entries, by queue, that a certificate should have and hasn't; none where it is given up.

        A renewal that failed and is tried again much later counts as lacking: only a look shows why it has to wait.

        :raises StorageError: the plan can't be read.
        """
        if self._clock.now() > stored.certificate.not_after + GIVEN_UP_AFTER:
            return {}
        wanted = self._plan.entries(stored)
        renewal = await self.renewal(stored.subject.cert_key)
        if renewal is not None and renewal.rank != rank_of(stored):
            return wanted  # the rest is of another certificate, too
        return {queue: entry for queue, entry in wanted.items() if not await self._is_planned(queue, stored, renewal)}

    async def renewal(self, cert_key: str) -> Due | None:
        """Give the entry of a renewal, which may be parked.

        :raises StorageError: the plan can't be read.
        """
        return await self._storage.scheduled(RENEWALS, cert_key) or await self._storage.scheduled(PARKED, cert_key)

    def renews_in_time(self, renewal: Due, stored: Stored, pause: float = CLOCKS_DIFFER) -> bool:
        """Tell whether a renewal comes up when its certificate is due, or within ``pause`` seconds from now."""
        return renewal.at <= max(self._plan.due_at(stored, chance=1.0), self._clock.now() + pause)

    def warns_in_time(self, warning: Due | None, certificate: Certificate, begins: float) -> bool:
        """Tell whether a warning is a certificate's, and comes up when it should; an expired one needs none."""
        now = self._clock.now()
        if warning is None:
            return now >= certificate.not_after
        latest = max(begins, now + WARNED_EVERY + CLOCKS_DIFFER)
        return warning.rank == certificate.not_after and warning.at <= latest

    async def _is_planned(self, queue: str, stored: Stored, renewal: Due | None) -> bool:
        if queue == RENEWALS:
            return renewal is not None and self.renews_in_time(renewal, stored)
        certificate, now = stored.certificate, self._clock.now()
        entry = await self._storage.scheduled(queue, stored.subject.cert_key)
        if queue == EXPIRIES:
            return self.warns_in_time(entry, certificate, self._plan.expiring_from(certificate))
        if now >= certificate.not_after:
            return True  # nobody is asked about it any more
        longest = {QUESTIONS: LONGEST_WAIT + CLOCKS_DIFFER, STAPLES: _LONGEST_STAPLED}[queue]
        return entry is not None and entry.at <= now + longest
