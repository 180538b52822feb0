"""A CA that keeps Let's Encrypt's limits by counting for itself, and remembers each time it had to refuse.

Nothing here is shared with the planner: levels that rise with time, on its own clock readings, and its own idea of what
a renewal is. Orders are counted when they come, certificates when they are issued, as Boulder does; unlike Boulder,
not even half a token is lent.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from tests.support.leaves import make_certificate

from ssl_cert_server.acme.authorize import ChallengeChoice
from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import CaProblem, CaUnreachable, ValidationFailed
from ssl_cert_server.issuers.acme import CaTerms, KeepOrder
from ssl_cert_server.model import Certificate, KeyFamily, OpenOrder

DAY = 86_400.0
LIFETIME = 90 * DAY

# Of each: how many, in how many seconds.
_ALLOWED = {
    "registered domain": (50, 7 * DAY),
    "exact set": (5, 7 * DAY),
    "failed authorizations": (5, 3600.0),
}
_WORDS = {
    "new orders": "too many new orders (300) from this account in the last 3h0m0s",
    "registered domain": 'too many certificates (50) already issued for "{}" in the last 168h0m0s',
    "exact set": "too many certificates (5) already issued for this exact set of identifiers in the last 168h0m0s",
    "failed authorizations": 'too many failed authorizations (5) for "{}" in the last 1h0m0s',
}
_CONNECT_TIMEOUT = 10.0


@dataclass(slots=True)
class _Level:
    """Tokens there were at a time."""

    tokens: float
    at: float


@dataclass(frozen=True, slots=True)
class Period:
    """From when until when, in Unix seconds."""

    start: float
    end: float

    def holds(self, now: float) -> bool:
        """Tell whether it is now."""
        return self.start <= now < self.end


class SimulatedCa:
    """Stands in for :class:`~ssl_cert_server.issuers.acme.AcmeCa`; ``dead`` names never prove control."""

    directory_url = "https://ca.simulated/directory"

    def __init__(
        self,
        clock: Clock,
        seed: int,
        *,
        new_orders: tuple[int, float],
        dead: set[str],
        outage: Period,
        grumpy: Period,
    ) -> None:
        """``new_orders`` are how many, in how many seconds.

        During the first half of ``outage`` it can't be reached, in the second it answers 503; it takes no new orders,
        for no reason at all, while ``grumpy``.
        """
        self._allowed = _ALLOWED | {"new orders": new_orders}
        self._clock = clock
        self._dice = random.Random(seed)
        self._dead = dead
        self._outage = outage
        self._grumpy = grumpy
        self._levels: dict[tuple[str, str], _Level] = {}
        self._sets: set[str] = set()
        self._serial = 0
        self._leaf = make_certificate("any.example")
        self.refused: Counter[str] = Counter()
        self.overdrawn: Counter[str] = Counter()
        self.injected = 0
        self.orders: Counter[str] = Counter()
        self.issued = 0
        self.failed = 0

    def issue_before(self, names: Sequence[str], not_after: float) -> Certificate:
        """Make a certificate of the time before the simulation, that ends at ``not_after``."""
        self._sets.add(_set(names))
        return self._certificate(names, not_after - LIFETIME)

    def level(self, limit: str, subject: str = "") -> float:
        """Give the tokens that are left in a bucket."""
        count, seconds = self._allowed[limit]
        now = self._clock.now()
        level = self._levels.setdefault((limit, subject), _Level(count, now))
        level.tokens = min(count, level.tokens + (now - level.at) * count / seconds)
        level.at = now
        return level.tokens

    async def terms(self) -> CaTerms:
        """Answer from memory, as what doesn't change is answered."""
        return CaTerms("https://ca.simulated/account/1", ())

    async def account_url(self) -> str:
        """Give what is known without asking."""
        return "https://ca.simulated/account/1"

    async def resume(self, names: Sequence[str], choice: ChallengeChoice, order: OpenOrder) -> None:
        """No order outlives the connection that it was made on."""

    async def issue(
        self,
        names: Sequence[str],
        family: KeyFamily,  # noqa: ARG002 - this and the rest is what an order is really made of
        choice: ChallengeChoice,
        *,
        replaces: str | None,  # noqa: ARG002
        before_order: Callable[[], Awaitable[None]],
        before_send: Callable[[], None],
        on_order: KeepOrder,
    ) -> Certificate:
        """Take an order, look for proof, issue."""
        await before_order()
        before_send()
        await self._travel()
        renewal = _set(names) in self._sets
        self._admit(names, renewal=renewal)
        await on_order(OpenOrder(self.directory_url, f"https://ca.simulated/order/{self.orders.total()}", "key"))
        await self._clock.sleep(self._dice.uniform(2, 20))
        self._check_reachable()
        for name in names:
            if name in self._dead:
                self._spend("failed authorizations", name)
                self.failed += 1
                tried = choice(name)[0].type
                raise ValidationFailed(f"{name}: nothing there", name=name, challenge=tried, problem="connection")
        self._spend("exact set", _set(names))
        if not renewal:
            for domain in {_domain(name) for name in names}:
                self._spend("registered domain", domain)
        self._sets.add(_set(names))
        self.issued += 1
        return self._certificate(names, self._clock.now())

    async def _travel(self) -> None:
        await self._clock.sleep(self._dice.uniform(0.05, 1.0))
        if self._outage.holds(self._clock.now()):
            await self._clock.sleep(_CONNECT_TIMEOUT)
            self._check_reachable()

    def _check_reachable(self) -> None:
        now, outage = self._clock.now(), self._outage
        if outage.holds(now):
            if now < (outage.start + outage.end) / 2:
                raise CaUnreachable("no answer")
            raise CaProblem("HTTP 503: serverInternal", type="serverInternal", status=503)

    def _admit(self, names: Sequence[str], *, renewal: bool) -> None:
        for name in names:
            self._check("failed authorizations", name)
        self._check("exact set", _set(names))
        if not renewal:
            for domain in {_domain(name) for name in names}:
                self._check("registered domain", domain)
            if self._grumpy.holds(self._clock.now()):
                self.injected += 1
                raise _problem(_WORDS["new orders"], 1800.0)
            self._check("new orders", "")
            self._spend("new orders", "")
        self.orders["renewal" if renewal else "new"] += 1

    def _check(self, limit: str, subject: str) -> None:
        if self.level(limit, subject) < 1 - 1e-6:
            self.refused[limit] += 1
            count, seconds = self._allowed[limit]
            wait = (1 - self.level(limit, subject)) * seconds / count
            raise _problem(_WORDS[limit].format(subject), wait)

    def _spend(self, limit: str, subject: str) -> None:
        if self.level(limit, subject) < 1 - 1e-6:
            self.overdrawn[limit] += 1
        self._levels[limit, subject].tokens -= 1

    def _certificate(self, names: Sequence[str], now: float) -> Certificate:
        self._serial += 1
        return Certificate(
            key_pem=b"",
            chain_pem=self._leaf.chain_pem,
            fingerprint=f"{self._serial:040x}",
            not_before=int(now),
            not_after=int(now + LIFETIME),
            names=frozenset(names),
            family=KeyFamily.ECDSA,
        )


def _problem(detail: str, retry_after: float) -> CaProblem:
    return CaProblem(f"HTTP 429: rateLimited: {detail}", type="rateLimited", status=429, retry_after=retry_after)


def _set(names: Sequence[str]) -> str:
    return " ".join(sorted(names))


def _domain(name: str) -> str:
    return ".".join(name.split(".")[-2:])
