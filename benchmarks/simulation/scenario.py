"""What happens to the fleet, and what came of it."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from unittest.mock import patch

import structlog

from benchmarks.simulation.ca import DAY, LIFETIME, Period, SimulatedCa
from benchmarks.simulation.fleet import Fleet
from benchmarks.simulation.virtual_time import START, VirtualClock, run_virtually
from ssl_cert_server.model import Certificate, Subject
from ssl_cert_server.renewal import due_worker
from ssl_cert_server.renewal.schedule import renew_at
from ssl_cert_server.service.budget.limits import LETS_ENCRYPT, Limit

_SAMPLES_A_DAY = 4
_HEARD_WITHIN = 6 * 3600.0
_ON_PLATFORMS = 0.3
_PLATFORM_SIZE = 1000


@dataclass(frozen=True, slots=True)
class Scenario:
    """``days`` of a fleet that begins with ``names``, whose certificates are up to two thirds through their lives.

    Three in ten names are customers' names below the registered domain of a platform, the others have a registered
    domain of their own; half of all names are ordered with a second name beside the first from now on, so that their
    first order here counts as new. ``new_names`` come every day. The share ``dead`` of all names never proves control.
    On the day ``revoked_on`` the CA wants the share ``revoked`` of all certificates replaced at once; during
    ``outage`` (first day, number of days) it can't be reached; on the day ``grumpy_on`` it takes no new orders for an
    hour, though it should. The CA allows so many ``new_orders`` in so many seconds; its other limits, which hold for
    each name or domain, are Let's Encrypt's, whatever the size of the fleet.
    """

    names: int = 100_000
    days: int = 90
    new_names: int = 400
    dead: float = 0.05
    revoked: float = 0.4
    revoked_on: float = 30.0
    outage: tuple[float, float] = (31.0, 2.0)
    grumpy_on: float = 60.0
    new_orders: tuple[int, float] = (300, 3 * 3600.0)
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Sample:
    """How things stand at ``day``: ``issued`` since the sample before, renewals of living names that are ``overdue``,
    certificates that are ``revoked`` and still in use, tokens of ``new_orders`` at the CA, and the ``least`` days that
    a living certificate has left.
    """

    day: float
    issued: int
    overdue: int
    revoked: int
    new_orders: float
    least: float


@dataclass(slots=True)
class Outcome:
    """What a simulation came to. Times are in seconds."""

    scenario: Scenario
    ca: SimulatedCa
    samples: list[Sample] = field(default_factory=list)
    expired: int = 0
    expired_dead: int = 0
    renewals: int = 0
    first_certificates: int = 0
    revoked: int = 0
    least_left: float = LIFETIME
    replaced_after: list[float] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)
    never_issued: int = 0


class _Run:
    """One simulation."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._dice = random.Random(scenario.seed)
        self._clock = VirtualClock(scenario.seed)
        self._dead: set[str] = set()
        first, length = scenario.outage
        self._ca = SimulatedCa(
            self._clock,
            scenario.seed,
            new_orders=scenario.new_orders,
            dead=self._dead,
            outage=Period(START + first * DAY, START + (first + length) * DAY),
            grumpy=Period(START + scenario.grumpy_on * DAY, START + scenario.grumpy_on * DAY + 3600),
        )
        self._fleet = Fleet(self._clock, self._ca, replace(LETS_ENCRYPT, new_orders=Limit(*scenario.new_orders)))
        self._platforms = max(1, round(scenario.names * _ON_PLATFORMS / _PLATFORM_SIZE))
        self._asked_at: dict[str, float] = {}
        self._revoked: dict[str, Certificate] = {}
        self._revoked_at = 0.0
        self._outcome = Outcome(scenario, self._ca)
        self._seen = 0

    async def run(self) -> Outcome:
        """Let the time pass."""
        await self._store()
        async with asyncio.TaskGroup() as group:
            background = [
                group.create_task(work)
                for work in (
                    self._fleet.worker.run(),
                    self._fleet.authorities.sweep(),
                    self._welcome(group),
                    self._revoke(),
                )
            ]
            for number in range(self._scenario.days * _SAMPLES_A_DAY):
                await asyncio.sleep((number + 1) * DAY / _SAMPLES_A_DAY - self._clock.monotonic())
                self._sample()
            for task in [*background, *self._visits]:
                task.cancel()
        self._sum_up()
        return self._outcome

    async def _store(self) -> None:
        self._visits: set[asyncio.Task[None]] = set()
        for number in range(self._scenario.names):
            subject = self._subject(f"{number}", second=self._dice.random() < 0.5)
            # What is due at once is a fleet that was neglected; ages are spread as if it had been running.
            left = self._dice.uniform(LIFETIME / 3, LIFETIME)
            await self._fleet.stored(subject, self._ca.issue_before(subject.names[:1], START + left))

    def _subject(self, label: str, *, second: bool) -> Subject:
        if self._dice.random() < _ON_PLATFORMS:
            name, second = f"customer{label}.platform{self._dice.randrange(self._platforms)}.com", False
        else:
            name = f"www.site{label}.com"
        names = (name, name.removeprefix("www.")) if second else (name,)
        if self._dice.random() < self._scenario.dead:
            self._dead.add(name)
        return Subject(name, names)

    async def _welcome(self, group: asyncio.TaskGroup) -> None:
        """Have new names come in, at all hours, each with visitors at its heels."""
        number = 0
        while self._scenario.new_names:
            await asyncio.sleep(self._dice.expovariate(self._scenario.new_names / DAY))
            subject = self._subject(f"-new{number}", second=False)
            number += 1
            self._asked_at[subject.cert_key] = self._clock.now()
            visit = group.create_task(self._fleet.visit(subject, self._dice))
            self._visits.add(visit)
            visit.add_done_callback(self._visits.discard)

    async def _revoke(self) -> None:
        """Have the CA suggest windows in the past; within hours each certificate's next question finds out."""
        await asyncio.sleep(self._scenario.revoked_on * DAY)
        self._revoked_at = self._clock.now()
        certificates = self._fleet.certificates
        chosen = self._dice.sample(sorted(certificates), round(self._scenario.revoked * len(certificates)))
        self._revoked = {cert_key: certificates[cert_key] for cert_key in chosen}
        self._outcome.revoked = sum(cert_key not in self._dead for cert_key in chosen)
        heard = sorted((self._dice.uniform(0, _HEARD_WITHIN), cert_key) for cert_key in chosen)
        for after, cert_key in heard:
            await asyncio.sleep(self._revoked_at + after - self._clock.now())
            if self._fleet.certificates[cert_key] is self._revoked[cert_key]:
                await self._fleet.advise(cert_key, self._revoked_at - 3600)

    def _sample(self) -> None:
        """Look at what was issued since the last look, and at what is left to do."""
        now = self._clock.now()
        issued = self._fleet.issuances[self._seen :]
        self._seen += len(issued)
        for cert_key, issuance in issued:
            if issuance.replaced is None:
                self._outcome.waited.append(issuance.at - self._asked_at[cert_key])
                self._outcome.first_certificates += 1
                continue
            self._outcome.renewals += 1
            left = issuance.replaced.not_after - issuance.at
            self._outcome.least_left = min(self._outcome.least_left, left)
            self._outcome.expired += left < 0
            if self._revoked.get(cert_key) is issuance.replaced:
                del self._revoked[cert_key]
                self._outcome.replaced_after.append(issuance.at - self._revoked_at)
        living = [item for item in self._fleet.certificates.items() if item[0] not in self._dead]
        self._outcome.samples.append(
            Sample(
                day=self._clock.monotonic() / DAY,
                issued=len(issued),
                overdue=sum(_overdue(certificate, now) for _, certificate in living),
                revoked=sum(cert_key not in self._dead for cert_key in self._revoked),
                new_orders=self._ca.level("new orders"),
                least=min(certificate.not_after - now for _, certificate in living) / DAY,
            )
        )

    def _sum_up(self) -> None:
        now = self._clock.now()
        for cert_key, certificate in self._fleet.certificates.items():
            if certificate.not_after < now:
                self._outcome.expired += cert_key not in self._dead
                self._outcome.expired_dead += cert_key in self._dead
        asked_for = {name for name, at in self._asked_at.items() if name not in self._dead and at < now - DAY}
        self._outcome.never_issued = len(asked_for - self._fleet.certificates.keys())


def _overdue(certificate: Certificate, now: float) -> bool:
    """Tell whether it should have been renewed an hour ago, however the dice fell."""
    return renew_at(certificate.not_before, certificate.not_after, 1.0) < now - 3600


def simulate(scenario: Scenario) -> Outcome:
    """Run a scenario."""

    async def run() -> Outcome:
        return await _Run(scenario).run()

    # No clock jumps here: nobody has to look at it every minute.
    with _quiet(), patch.object(due_worker, "_LONGEST_NAP", 3600.0):
        return run_virtually(run())


@contextmanager
def _quiet() -> Iterator[None]:
    """Drop what the server logs: it would be a line or two per order."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)
