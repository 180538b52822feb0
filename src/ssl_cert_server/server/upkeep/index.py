"""Makes the due index anew from the certificates that are stored."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import InvalidCertificate, NotOpened
from ssl_cert_server.renewal.mending import Mending
from ssl_cert_server.renewal.plan import GIVEN_UP_AFTER, PARKED, RENEWALS, RenewalPlan, Stored
from ssl_cert_server.server.upkeep.stored import EXPECTED_WITHIN, Rules, parse_stored, read_record
from ssl_cert_server.server.upkeep.streams import batches, side_by_side
from ssl_cert_server.storage.base import Due, Storage

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
    mending: Mending = field(init=False)
    scheduled: int = 0
    removed: int = 0
    unusable: int = 0

    def __post_init__(self) -> None:
        self.mending = Mending(self.plan, self.storage, self.clock)

    async def run(self) -> None:
        """Take out the entries of nothing, and then plan what is stored.

        :raises StorageError: storage can't be read or written.
        """
        await self.storage.index_complete()  # so that an index which is lost meanwhile isn't marked in its place
        await self.plan.marks.note()
        for queue in (PARKED, RENEWALS):
            await side_by_side(batches(self.storage.list_due(queue), _TOGETHER), partial(self._take_out, queue))
        await side_by_side(batches(self.storage.list(), _TOGETHER), self._plan)
        await self.storage.mark_index_complete()

    async def _take_out(self, queue: str, entries: list[Due]) -> None:
        gone = [
            entry.key
            for entry in entries
            if not (queue == RENEWALS and self._expected(entry)) and await self._find(entry.key) is None
        ]
        await self.storage.unschedule(queue, gone)
        self.removed += len(gone)

    async def _plan(self, keys: list[str]) -> None:
        wanted: defaultdict[str, list[Due]] = defaultdict(list)
        for key in keys:
            self.step()
            stored = await self._find(key, told=True)
            if stored is not None:
                for queue, entry in (await self._entries(stored)).items():
                    wanted[queue].append(entry)
        for queue, entries in wanted.items():
            await self.storage.schedule(queue, entries)
        self.scheduled += len(wanted[RENEWALS])

    async def _entries(self, stored: Stored) -> dict[str, Due]:
        """Give what a certificate lacks, and its renewal in any case, for the configuration may be another one now."""
        lacking = await self.mending.lacking(stored)
        if await self.storage.scheduled(PARKED, stored.subject.cert_key):
            lacking.pop(RENEWALS, None)
            return lacking
        return lacking | {RENEWALS: self.plan.entries(stored)[RENEWALS]}

    def _expected(self, entry: Due) -> bool:
        """Tell whether an entry may be of a certificate that is only being issued."""
        soon = 0 < entry.at - self.clock.now() <= EXPECTED_WITHIN
        return soon and self.rules.policy.stored_subject(entry.key) is not None

    async def _find(self, key: str, *, told: bool = False) -> Stored | None:
        """Give a certificate that is to be renewed; with ``told``, say why one that is stored isn't."""
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
        if certificate is None or self.clock.now() > certificate.not_after + GIVEN_UP_AFTER:
            return None
        return Stored(subject, certificate, await read_record(self.storage, key, certificate))
