"""Looks at everything that is stored, and tells what is wrong with it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from ssl_cert_server.acme.jose import AccountKey
from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import InvalidCertificate, NotOpened, StorageError
from ssl_cert_server.pki.x509 import check_not_expired
from ssl_cert_server.renewal.mending import Mending
from ssl_cert_server.renewal.plan import EXPIRIES, QUESTIONS, RENEWALS, STAPLES, RenewalPlan, Stored, rank_of
from ssl_cert_server.server.upkeep.kept import ACCOUNT_KEY, Kept
from ssl_cert_server.server.upkeep.stored import EXPECTED_WITHIN, Rules, parse_stored, read_record
from ssl_cert_server.server.upkeep.streams import side_by_side
from ssl_cert_server.storage.base import Due, Storage
from ssl_cert_server.storage.write_watch import is_probe

_REMEDY = "`ssl-cert-server storage rebuild-index`"
_LONGEST_PAUSE = 8 * 86_400.0
"""Seconds for which a renewal that failed may rest: CAs are obeyed for up to a week, and a tenth is added."""

_ELSE = {
    EXPIRIES: "nobody would be warned in time before it expires",
    QUESTIONS: "its CA would not be asked when it wants it renewed",
    STAPLES: "its responder would not be asked whether it is revoked",
}
_UNREADABLE = 100
"""Values that may be unreadable one by one; with more, storage itself is gone."""


@dataclass(slots=True)
class Verification:
    """``finding`` gets a line for everything that is wrong, ``step`` is called for every value.

    ``plan`` says when a certificate is due.
    """

    storage: Storage
    plan: RenewalPlan
    kept: Kept
    rules: Rules
    clock: Clock
    finding: Callable[[str], None]
    step: Callable[[], None]
    mending: Mending = field(init=False)
    findings: int = 0
    certificates: int = 0
    values: int = 0
    unreadable: int = 0
    _unread: set[str] = field(default_factory=set)
    _not_listed: set[str] = field(init=False)

    def __post_init__(self) -> None:
        self.mending = Mending(self.plan, self.storage, self.clock)
        self._not_listed = set(self.rules.others)

    async def run(self) -> None:
        """Look at all of it.

        :raises StorageError: storage can't be read.
        """
        for folder in await self.kept.folders(self.storage):
            await side_by_side(self.storage.list(folder), self._check)
        for key in [*self._not_listed]:  # a folder in the place of one is not listed unless its name has a dot
            await self._check(key)
        await side_by_side(self.storage.list_due(RENEWALS), self._check_entry)

    async def _check(self, key: str) -> None:
        self.step()
        self._not_listed.discard(key)
        if is_probe(key):
            return
        async with self._told():
            try:
                stored = await self.storage.get(key)
            except StorageError as error:
                self.values += 1
                self.certificates += self.kept.is_certificate(key)
                if not isinstance(error, NotOpened):
                    self._unread.add(key)
                raise
            if stored is not None:
                self.values += 1
                await self._check_value(key, stored)

    async def _check_value(self, key: str, stored: bytes) -> None:
        try:
            if key == ACCOUNT_KEY or (key.startswith("_accounts/") and key.endswith(".key")):
                AccountKey.from_pem(stored)
            elif self.kept.is_certificate(key):
                self.certificates += 1
                await self._check_certificate(key, stored)
        except InvalidCertificate as error:
            self._found(f"{key}: {error}")

    async def _check_certificate(self, key: str, stored: bytes) -> None:
        certificate = parse_stored(key, stored, self.rules)
        subject = self.rules.policy.stored_subject(key)
        if subject is None and "/" not in key and key not in self.rules.others:
            return  # of a name that is not permitted any more: nobody is served it, so it may expire
        check_not_expired(certificate, self.clock.now())
        if subject is None:
            return
        await self._check_planned(Stored(subject, certificate, await read_record(self.storage, key, certificate)))

    async def _check_planned(self, stored: Stored) -> None:
        key = stored.subject.cert_key
        renewal = await self.mending.renewal(key)
        if renewal is None:
            self._found(f"{key}: nothing has it renewed; {_REMEDY} mends that")
            return
        if renewal.rank != rank_of(stored):
            # One that is only being issued, or renewed, is planned last.
            if renewal.at > self.clock.now() + EXPECTED_WITHIN:
                self._found(f"{key}: its renewal was planned for another certificate; {_REMEDY} mends that")
            return
        if not self.mending.renews_in_time(renewal, stored, _LONGEST_PAUSE):
            self._found(f"{key}: its renewal comes up too late; {_REMEDY} mends that")
        lacking = await self.mending.lacking(stored)
        for queue, what in _ELSE.items():
            if queue in lacking:
                self._found(f"{key}: {what}; {_REMEDY} mends that")

    async def _check_entry(self, entry: Due) -> None:
        if is_probe(entry.key) or entry.key in self._unread:
            return
        async with self._told():
            later = entry.at > self.clock.now() + EXPECTED_WITHIN
            if later and await self.storage.get(entry.key) is None:
                self._found(f"{entry.key}: to be renewed, but not stored; {_REMEDY} takes it out")

    @asynccontextmanager
    async def _told(self) -> AsyncIterator[None]:
        """Make a finding of what can't be read; where that is too much, storage itself is gone."""
        try:
            yield
        except StorageError as error:
            self._found(str(error))
            self.unreadable += not isinstance(error, NotOpened)
            if self.unreadable > _UNREADABLE:
                raise

    def _found(self, line: str) -> None:
        self.findings += 1
        self.finding(line)
