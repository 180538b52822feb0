"""The server's planning as it is, over certificates that hold nothing but their dates."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import cast

from benchmarks.simulation.ca import SimulatedCa
from ssl_cert_server.challenges.choice import Challenges
from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import Unavailable
from ssl_cert_server.issuers.acme import AcmeCa
from ssl_cert_server.model import Certificate, Subject
from ssl_cert_server.renewal.plan import RenewalPlan, Stored
from ssl_cert_server.renewal.worker import RenewalWorker
from ssl_cert_server.service.attempts import ISSUANCE_DEADLINE, Attempts, Predecessor, Wanted
from ssl_cert_server.service.authorities import Authorities
from ssl_cert_server.service.budget.limits import NO_LIMITS, CaLimits
from ssl_cert_server.service.budget.planner import Budget, Priority
from ssl_cert_server.service.ca_health import CaHealth
from ssl_cert_server.service.name_states import NameStates
from ssl_cert_server.service.orders import Authority, Orders
from ssl_cert_server.service.preflight import Preflight
from ssl_cert_server.service.records import IssuedRecord
from ssl_cert_server.service.state import check_not_backing_off
from ssl_cert_server.service.turns import Turns
from ssl_cert_server.storage.leasing import leased
from ssl_cert_server.storage.memory import MemoryStorage

_TURNS = 32
_VISITS_EVERY = 400.0


async def _nothing() -> None:
    """No server dies here, so nobody has to look after what became of its orders."""


class _Solver:
    """Answers challenges that nobody asks for."""

    def __init__(self, type: str) -> None:
        self.type = type

    async def present(self, name: str, token: str, key_authorization: str) -> None: ...

    async def cleanup(self, name: str, token: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Issuance:
    """That a certificate replaced another, at a time; None where it is a name's first."""

    at: float
    replaced: Certificate | None


class Fleet:
    """One server with its storage in memory.

    Everything that decides when to ask the CA for what is the real thing: schedule, worker, turns, attempts with their
    back-off, the CAs in order with their health, the budget. Only what reads and parses stored certificates is not.
    """

    def __init__(self, clock: Clock, ca: SimulatedCa, limits: CaLimits) -> None:
        self.certificates: dict[str, Certificate] = {}
        self.issuances: list[tuple[str, Issuance]] = []
        self._subjects: dict[str, Subject] = {}
        self._records: dict[str, IssuedRecord] = {}
        self._clock = clock
        self._storage = MemoryStorage(clock)
        self.plan = RenewalPlan(self._storage, clock, None)
        self._turns = Turns(_TURNS, clock)
        authority = Authority(cast(AcmeCa, ca), limits, CaHealth(clock))
        budget = Budget(self._storage, clock)
        preflight = Preflight(_NoResolver(), public_ips=(), caa=False)
        orders = Orders(
            Challenges(direct=[_Solver("http-01"), _Solver("tls-alpn-01")], dns01=None), preflight, budget, clock
        )
        self.authorities = Authorities(
            [authority], orders, budget, clock, on_demand=NO_LIMITS, patience=ISSUANCE_DEADLINE
        )
        self._states = NameStates(self._storage, clock)
        self._attempts = Attempts(self._storage, self._states, self.authorities, clock, deadline=ISSUANCE_DEADLINE)
        self.worker = RenewalWorker(self.plan, self, self._storage, clock)

    async def stored(self, subject: Subject, certificate: Certificate) -> None:
        """Have a certificate from before."""
        self._keep(subject, certificate, IssuedRecord(certificate.fingerprint, SimulatedCa.directory_url))
        await self.plan.add(self._found(subject.cert_key))

    async def advise(self, cert_key: str, drawn: float) -> None:
        """Have the CA say when it wants a certificate renewed."""
        self._records[cert_key] = replace(self._records[cert_key], renew_at=drawn)
        found = self._found(cert_key)
        await self.plan.renew_at(found, self.plan.due_at(found))

    async def find(self, cert_key: str) -> Stored | None:
        """See :class:`ssl_cert_server.renewal.worker.Renewables`."""
        return self._found(cert_key) if cert_key in self.certificates else None

    async def take_out(self, cert_key: str, seen: Stored | None, *queues: str) -> bool:  # noqa: ARG002 - as below
        """See :class:`ssl_cert_server.renewal.worker.Renewables`."""
        for queue in queues:
            await self._storage.unschedule(queue, [cert_key])
        return True

    async def publish(self, stored: Stored) -> None:
        """See :class:`ssl_cert_server.renewal.worker.Renewables`; nobody is served here."""

    def _found(self, cert_key: str) -> Stored:
        return Stored(self._subjects[cert_key], self.certificates[cert_key], self._records[cert_key])

    def _keep(self, subject: Subject, certificate: Certificate, record: IssuedRecord) -> None:
        cert_key = subject.cert_key
        self._subjects[cert_key], self.certificates[cert_key] = subject, certificate
        self._records[cert_key] = record

    async def renew(
        self,
        subject: Subject,
        replaces: str,  # noqa: ARG002 - no peer is ever faster here
        priority: Priority,
    ) -> Certificate:
        """See :meth:`ssl_cert_server.service.issuance.AcmeCertificates.renew`."""
        cert_key = subject.cert_key
        async with leased(self._storage, f"certificates/{cert_key}", self._clock) as lease:
            state = await self._states.load(cert_key)
            check_not_backing_off(subject.names[0], state, self._clock.now())
            old = await self.find(cert_key)
            predecessor = Predecessor(old.certificate, old.record) if old else None
            async with self._turns.turn(priority, suspect=state.failures > 0):
                made = await self._attempts.make(Wanted(subject, priority, predecessor), state, lease, _nothing)
        self._keep(subject, made.certificate, made.record)
        self.issuances.append((cert_key, Issuance(self._clock.now(), old.certificate if old else None)))
        await self.plan.stored(subject, made.certificate, made.record)
        return made.certificate

    async def visit(self, subject: Subject, dice: random.Random) -> None:
        """Have visitors come for a name that has no certificate, one every ten minutes or so, until it has one."""
        while subject.cert_key not in self.certificates:
            try:
                await self.renew(subject, "", Priority.HANDSHAKE)
            except Unavailable as error:
                await self._clock.sleep(max(error.retry_after, _VISITS_EVERY) * (1 + dice.random()))


class _NoResolver:
    """Is never asked: neither addresses nor CAA are looked at."""

    async def addresses(self, name: str) -> tuple[str, ...]:
        raise AssertionError(name)

    async def caa(self, name: str) -> tuple[()]:
        raise AssertionError(name)
