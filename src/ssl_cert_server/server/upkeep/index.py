"""Makes the queue of renewals anew from the certificates that are stored."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import InvalidCertificate, NotOpened
from ssl_cert_server.model import Subject
from ssl_cert_server.renewal.plan import EXPIRIES, PARKED, QUESTIONS, RENEWALS, RenewalPlan, Stored
from ssl_cert_server.server.upkeep.stored import EXPECTED_WITHIN, Rules, parse_stored
from ssl_cert_server.server.upkeep.streams import batches, side_by_side
from ssl_cert_server.service.records import IssuedRecord, load_record
from ssl_cert_server.storage.base import Due, Storage

_GIVEN_UP_AFTER = 7 * 86_400.0
"""Seconds; renewal leaves alone what expired longer ago, so that it isn't all ordered at once."""

_TOGETHER = 100


@dataclass(slots=True)
class QueueRebuild:
    """Plans what is stored, and takes out what isn't. ``tell`` gets a line for what can't be used.

    What is parked stays so. ``plan`` says when a certificate is due.
    """

    storage: Storage
    plan: RenewalPlan
    rules: Rules
    clock: Clock
    tell: Callable[[str], None]
    step: Callable[[], None]
    scheduled: int = 0
    removed: int = 0
    unusable: int = 0

    async def run(self) -> None:
        """Look at the entries there are, and then for certificates without one.

        :raises StorageError: storage can't be read or written.
        """
        await self.storage.index_complete()  # so that an index which is lost meanwhile isn't marked in its place
        for queue, work in ((PARKED, self._keep_parked), (RENEWALS, self._renew_entries)):
            await side_by_side(batches(self.storage.list_due(queue), _TOGETHER), work)
        await side_by_side(batches(self.storage.list(), _TOGETHER), self._add_missing)
        await self.storage.mark_index_complete()

    async def _keep_parked(self, entries: list[Due]) -> None:
        await self._remove(PARKED, [entry.key for entry in entries if await self._due(entry.key) is None])

    async def _renew_entries(self, entries: list[Due]) -> None:
        dues = [await self._due(entry.key) for entry in entries]
        await self._schedule(due for due in dues if due is not None)
        pairs = zip(entries, dues, strict=True)
        await self._remove(RENEWALS, [entry.key for entry, due in pairs if due is None and not self._expected(entry)])

    async def _add_missing(self, keys: list[str]) -> None:
        missing, unasked, unwarned = [], [], []
        for key in keys:
            self.step()
            if self.rules.policy.stored_subject(key) is None:
                continue
            planned = await self.storage.scheduled(RENEWALS, key) or await self.storage.scheduled(PARKED, key)
            due = None if planned else await self._due(key, told=True)
            if due is not None:
                missing.append(due)
            entry = planned or due
            if entry is None:
                continue
            soon = self.clock.now() + EXPECTED_WITHIN * self.clock.random()
            if not await self.storage.scheduled(QUESTIONS, key):
                unasked.append(Due(key, soon))
            if not await self.storage.scheduled(EXPIRIES, key):
                unwarned.append(Due(key, soon, entry.rank))  # its worker sees when it should come up
        await self._schedule(missing)
        await self.storage.schedule(QUESTIONS, unasked)
        await self.storage.schedule(EXPIRIES, unwarned)

    async def _schedule(self, dues: Iterable[Due]) -> None:
        entries = [*dues]
        await self.storage.schedule(RENEWALS, entries)
        self.scheduled += len(entries)

    async def _remove(self, queue: str, keys: list[str]) -> None:
        await self.storage.unschedule(queue, keys)
        self.removed += len(keys)

    def _expected(self, entry: Due) -> bool:
        """Tell whether an entry may be of a certificate that is only being issued."""
        soon = 0 < entry.at - self.clock.now() <= EXPECTED_WITHIN
        return soon and self.rules.policy.stored_subject(entry.key) is not None

    async def _due(self, key: str, *, told: bool = False) -> Due | None:
        """Give the entry that a key should have; with ``told``, say why it has none."""
        subject = self.rules.policy.stored_subject(key)
        if subject is None:
            return None
        try:
            pem = await self.storage.get(key)
            certificate = parse_stored(key, pem, self.rules) if pem is not None else None
        except (InvalidCertificate, NotOpened) as error:
            if told:
                self.unusable += 1
                self.tell(str(error) if isinstance(error, NotOpened) else f"{key}: {error}")
            return None
        if certificate is None or self.clock.now() > certificate.not_after + _GIVEN_UP_AFTER:
            return None
        record = await self._record(subject, certificate.fingerprint)
        return Due(key, self.plan.due_at(Stored(subject, certificate, record)), certificate.not_after)

    async def _record(self, subject: Subject, fingerprint: str) -> IssuedRecord:
        try:
            return await load_record(self.storage, subject.cert_key, fingerprint)
        except NotOpened:
            return IssuedRecord(fingerprint)  # renewed by its lifetime, rather than never
