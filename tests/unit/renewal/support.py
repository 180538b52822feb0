"""What the tests of renewal share: one instance's plan and certificates, and time that goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from ssl_cert_server.renewal.plan import RenewalPlan
from ssl_cert_server.renewal.rebuild import SeenCertificates
from ssl_cert_server.renewal.stored import StoredCertificates
from ssl_cert_server.renewal.upkeep import CertificateUpkeep
from ssl_cert_server.service.attempts import Attempts
from ssl_cert_server.service.issuance import AcmeCertificates
from ssl_cert_server.service.name_states import NameStates
from ssl_cert_server.service.policy import Policy, PolicyRules
from ssl_cert_server.service.turns import Turns
from ssl_cert_server.storage.base import Due
from tests.support.clock import ManualClock
from tests.support.faulty_storage import FaultyStorage
from tests.support.scripted_ca import ScriptedCa

COM = PolicyRules(patterns=[r".+\.com"])


class Instance:
    """What an instance knows, without the work that a test is about; one on the storage, clock and CA of ``peer``.

    ``seen`` hears of what is read only where it ``sees``. ``used`` are the keys of what was just stored.
    """

    def __init__(
        self,
        peer: Instance | None = None,
        rules: PolicyRules = COM,
        *,
        renew_before: float | None = None,
        sees: bool = False,
    ) -> None:
        self.clock: ManualClock = peer.clock if peer else ManualClock()
        self.storage: FaultyStorage = peer.storage if peer else FaultyStorage(self.clock)
        self.ca: ScriptedCa = peer.ca if peer else ScriptedCa(self.clock)
        self.plan = RenewalPlan(self.storage, self.clock, renew_before)
        self.seen = SeenCertificates(self.plan, self.storage, self.clock)
        self.used: list[str] = []
        states = NameStates(self.storage, self.clock)
        self.certificates = AcmeCertificates(
            self.storage,
            states,
            Attempts(self.storage, states, self.ca, self.clock, deadline=300.0),
            Turns(32, self.clock),
            self.clock,
            upkeep=CertificateUpkeep(
                self.plan,
                self.seen if sees else None,
                self.storage,
                on_stored=lambda subject, _: self.used.append(subject.cert_key),
            ),
        )
        self.found = StoredCertificates(self.certificates, self.storage, Policy(rules))
        self._tasks: list[asyncio.Task[None]] = []

    async def begin(self, *works: Coroutine[Any, Any, None]) -> None:
        """Let work go on in the background, for ever."""
        self._tasks += [asyncio.create_task(work) for work in works]
        await self.clock.advance(0)

    async def close(self) -> None:
        """End what goes on, which has not ended by itself."""
        for task in self._tasks:
            assert not task.done()
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await self.certificates.close()

    def entry(self, queue: str, key: str) -> Due | None:
        """Give what is planned for a key."""
        return self.storage._queues[queue].get(key)

    async def later(self, seconds: float) -> None:
        """Let the wall clock go on, and a minute pass in which that is noticed."""
        self.clock.jump(seconds - 60)
        await self.clock.advance(60)
