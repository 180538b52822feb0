"""Storage that keeps what is valid: certificates that storage lost are served from memory and the mirror.

A storage may go back in time: a snapshot, a dump or a backup is restored, or a failover loses the last writes. Then a
missing or older value says nothing about what was removed on purpose; only a removal record does
(:mod:`~ssl_cert_server.storage.removals`). What was lost is queued in :attr:`Retention.lost`, to be written back.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Container
from contextlib import suppress
from dataclasses import dataclass

import structlog

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import InvalidCertificate, StorageError
from ssl_cert_server.issuers.local_ca import ROOT_KEY
from ssl_cert_server.model import Certificate
from ssl_cert_server.pki.x509 import parse_certificate
from ssl_cert_server.service.lost_keys import LostKeys
from ssl_cert_server.service.records import IssuedRecord, load_record
from ssl_cert_server.service.retention import Action, decide, newest
from ssl_cert_server.storage.base import Storage
from ssl_cert_server.storage.removals import FOLDER, load_removals, record_key, removed_from, save_removals
from ssl_cert_server.storage.wrapper import StorageWrapper

_log = structlog.get_logger()

_ACCOUNT_KEY = "acme_account+key"
_REMEMBERED = 10_000
"""Removal records in memory."""

_PATIENCE = 0.2
"""Seconds that the mirror has to answer beside a storage that did."""

Held = Callable[[str], bytes | None]


@dataclass(frozen=True, slots=True)
class Finding:
    """What has to be done about a key: a RESTORE of ``value``, which is ``certificate``, or a REMOVE.

    ``broken`` says why the stored value can't be parsed; it is empty where it can, or nothing is stored.
    """

    action: Action
    certificate: Certificate
    value: bytes
    record: IssuedRecord
    broken: str = ""


class Retention:
    """Compares storage with what this instance holds: in memory (``held``), and in its mirror (``copies``).

    ``primary`` is the storage itself, without the mirror. ``fixed`` are the keys whose stored value is right whatever
    its age: those that operators write, and the local CA's root.
    """

    def __init__(self, primary: Storage, copies: Storage | None, clock: Clock, *, fixed: Container[str] = ()) -> None:
        self._primary = primary
        self.copies = copies
        self._clock = clock
        self._fixed = fixed
        self._removals: OrderedDict[str, dict[str, float]] = OrderedDict()
        self.held: Held = lambda _: None
        self.lost = LostKeys()

    async def load(self) -> None:
        """Read the removal records in the mirror, which a storage that went back may have lost."""
        if self.copies is None:
            return
        with suppress(StorageError):  # a mirror that can't be read is logged when it is written
            async for record in self.copies.list(FOLDER):
                if key := removed_from(record):
                    await self._load_copied_removals(key)

    def removals_of(self, key: str) -> dict[str, float]:
        """Return the removals from ``key`` in memory."""
        return dict(self._removals.get(key, {}))

    def removed_keys(self) -> list[str]:
        """Return the keys with removals in memory."""
        return [*self._removals]

    async def note_removal(self, key: str) -> None:
        """Act on an announced removal record: remember it, and delete what it names from the mirror.

        :raises StorageError: the record can't be read.
        """
        await self._load_removals(key)

    async def best(self, key: str, stored: bytes | None) -> bytes | None:
        """Return the value to use for ``key``, of which ``stored`` was read; what has to be mended is queued.

        :raises StorageError: storage can't be read, and ``stored`` can't be used without that.
        """
        if not is_retained(key) or self._is_right(key, stored):
            return stored
        # An operator's certificate has its own memory, which also logs that it is missing.
        held = self.held(key) if key not in self._fixed else None
        if stored is not None and stored == held and key not in self._removals:
            return stored
        values = [held, await self._copy_beside(stored, key)]
        if key not in self._removals and all(value in (None, stored) for value in values):
            return stored
        try:
            finding = await self._examine(key, stored, values)
        except StorageError:
            # No certificate would have one issued, and a removed one must not be served.
            if stored is None or self._is_removed(key, stored):
                raise
            return stored
        if finding is None:
            return stored
        if key not in self._fixed or key == ROOT_KEY:
            self.lost.add(key)
        return finding.value if finding.action is Action.RESTORE else None

    async def may_replace(self, key: str, copy: bytes, value: bytes | None) -> bool:
        """Return whether a value that was read may take the place of the mirror's ``copy``; None can't be opened."""
        if not is_retained(key) or _parsed(copy) is None:
            return True
        if _parsed(value) is None:
            return False
        if key in self._fixed:
            return True
        if await self._examine(key, value, [copy]) is None:
            return True
        self.lost.add(key)
        return False

    async def examine(self, key: str) -> Finding | None:
        """Read storage itself, and return what has to be done about ``key``; None where nothing has to.

        :raises StorageError: storage can't be read.
        """
        stored = await self._primary.get(key)
        if self._is_right(key, stored):
            return None
        return await self._examine(key, stored, [self.held(key), await self._copy(key)])

    def _is_right(self, key: str, stored: bytes | None) -> bool:
        """Return whether a stored value is right, whatever else is held; nobody writes a broken root on purpose."""
        return stored is not None and key in self._fixed and (key != ROOT_KEY or _parsed(stored) is not None)

    async def _examine(self, key: str, stored: bytes | None, values: list[bytes | None]) -> Finding | None:
        current, now = _parsed(stored), self._clock.now()
        held = {value: _parsed(value) for value in values}
        removed = set(self._removals.get(key, ()))
        if self._decide(held, current, removed, "", now) is Action.KEEP:
            return None
        # Only now, as it costs reads: is there a reason for which storage is right?
        removed |= (await self._load_removals(key)).keys()
        removed |= {each.fingerprint for each in held.values() if each and (await self._record(key, each)).revoked}
        record = await load_record(self._primary, key, current.fingerprint) if current else IssuedRecord()
        action = self._decide(held, current, removed, record.replaces, now)
        if action is Action.REMOVE and current is not None:
            return Finding(action, current, stored or b"", record)
        best = newest(held.values(), removed=removed, now=now)
        if action is Action.KEEP or best is None:
            return None
        value = next(value for value, certificate in held.items() if certificate is best)
        return Finding(action, best, value or b"", await self._record(key, best), _why_broken(stored))

    def _decide(
        self,
        held: dict[bytes | None, Certificate | None],
        current: Certificate | None,
        removed: set[str],
        predecessor: str,
        now: float,
    ) -> Action:
        best = newest(held.values(), removed=removed, now=now)
        return decide(best, current, removed=removed, now=now, predecessor=predecessor)

    def _is_removed(self, key: str, stored: bytes) -> bool:
        current = _parsed(stored)
        return current is not None and current.fingerprint in self._removals.get(key, ())

    async def _load_copied_removals(self, key: str) -> None:
        """Remember the mirror's removal record of a key, or delete one that has expired."""
        if self.copies is None:
            return
        removals = await load_removals(self.copies, key)
        self._note(key, removals)
        if all(until <= self._clock.now() for until in removals.values()):
            await self.copies.delete(record_key(key))

    async def _load_removals(self, key: str) -> dict[str, float]:
        removals = await load_removals(self._primary, key)
        if removals:
            self._note(key, removals)
            await self._remove_copy(key, removals)
        return removals

    async def _remove_copy(self, key: str, removals: dict[str, float]) -> None:
        if self.copies is None:
            return
        try:
            await save_removals(self.copies, key, removals, now=self._clock.now())
            copy = _parsed(await self.copies.get(key))
            if copy is not None and copy.fingerprint in removals:
                await self.copies.delete(key)
        except StorageError as error:
            _log.warning("storage.not_mirrored", cert_key=key, reason=str(error))

    async def _record(self, key: str, certificate: Certificate) -> IssuedRecord:
        """Return the record of a held certificate: from storage, else from the mirror."""
        record = await load_record(self._primary, key, certificate.fingerprint)
        if record == IssuedRecord(certificate.fingerprint) and self.copies is not None:
            with suppress(StorageError):
                return await load_record(self.copies, key, certificate.fingerprint)
        return record

    async def _copy_beside(self, stored: bytes | None, key: str) -> bytes | None:
        """Return the mirror's copy; where a value is stored, wait for at most :data:`_PATIENCE`."""
        if self.copies is None or stored is None:
            return await self._copy(key)
        reading = asyncio.create_task(self._copy(key))
        patience = asyncio.create_task(self._clock.sleep(_PATIENCE))
        try:
            await asyncio.wait([reading, patience], return_when=asyncio.FIRST_COMPLETED)
            return reading.result() if reading.done() else None
        finally:
            reading.cancel()
            patience.cancel()

    async def _copy(self, key: str) -> bytes | None:
        with suppress(StorageError):
            return await self.copies.get(key) if self.copies is not None else None
        return None

    def _note(self, key: str, removals: dict[str, float]) -> None:
        now = self._clock.now()
        known = self._removals.pop(key, {}) | removals
        if known := {fingerprint: until for fingerprint, until in known.items() if until > now}:
            self._removals[key] = known
        if len(self._removals) > _REMEMBERED:
            self._removals.popitem(last=False)


class RetainedStorage(StorageWrapper):
    """``inner``, with the values of certificates replaced by what ``retention`` finds to be right."""

    def __init__(self, inner: Storage, retention: Retention) -> None:
        super().__init__(inner)
        self.retention = retention

    async def get(self, key: str) -> bytes | None:
        return await self.retention.best(key, await self._inner.get(key))


def is_retained(key: str) -> bool:
    """Return whether a key holds a certificate."""
    return key == ROOT_KEY or ("/" not in key and key != _ACCOUNT_KEY)


def _parsed(value: bytes | None) -> Certificate | None:
    try:
        return parse_certificate(value) if value else None
    except InvalidCertificate:
        return None


def _why_broken(stored: bytes | None) -> str:
    if stored is not None:
        try:
            parse_certificate(stored)
        except InvalidCertificate as error:
            return str(error)
    return ""
