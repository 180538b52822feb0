"""Makes the queue of renewals anew from the certificates that are stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import InvalidCertificate, NotOpened
from ssl_cert_server.server.upkeep.kept import RENEWAL
from ssl_cert_server.server.upkeep.stored import Rules, due_of, parse_stored
from ssl_cert_server.server.upkeep.streams import side_by_side
from ssl_cert_server.storage.base import Due, Storage

_GIVEN_UP_AFTER = 7 * 86_400.0
"""Seconds; renewal leaves alone what expired longer ago, so that it isn't all ordered at once."""


@dataclass(slots=True)
class IndexRebuild:
    """Schedules what is stored, and takes out what isn't. ``tell`` gets a line for what can't be used."""

    storage: Storage
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
        await side_by_side(self.storage.list_due(RENEWAL), self._renew_entry)
        await side_by_side(self.storage.list(), self._add_missing)

    async def _renew_entry(self, entry: Due) -> None:
        due = await self._due(entry.key)
        if due is None:
            await self.storage.unschedule(RENEWAL, [entry.key])
            self.removed += 1
        else:
            await self._schedule(due)

    async def _add_missing(self, key: str) -> None:
        self.step()
        if self.rules.policy.stored_subject(key) is None or await self.storage.scheduled(RENEWAL, key) is not None:
            return
        due = await self._due(key, told=True)
        if due is not None:
            await self._schedule(due)

    async def _schedule(self, due: Due) -> None:
        await self.storage.schedule(RENEWAL, [due])
        self.scheduled += 1

    async def _due(self, key: str, *, told: bool = False) -> Due | None:
        """Give the entry that a key should have; with ``told``, say why it has none."""
        if self.rules.policy.stored_subject(key) is None:
            return None
        try:
            stored = await self.storage.get(key)
            certificate = parse_stored(key, stored, self.rules) if stored is not None else None
            if certificate is None or self.clock.now() > certificate.not_after + _GIVEN_UP_AFTER:
                return None
            return await due_of(self.storage, key, certificate, self.rules, self.clock)
        except (InvalidCertificate, NotOpened) as error:
            if told:
                self.unusable += 1
                self.tell(str(error) if isinstance(error, NotOpened) else f"{key}: {error}")
            return None
