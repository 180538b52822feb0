"""The CAs in order: who is asked for what, when another one is, and what it costs."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

import pytest
from structlog.testing import capture_logs

from ssl_cert_server.acme.ari import ari_id
from ssl_cert_server.acme.authorize import ChallengeChoice
from ssl_cert_server.challenges.choice import Challenges
from ssl_cert_server.challenges.dns01.solver import Dns01
from ssl_cert_server.dns.resolver import CaaRecord
from ssl_cert_server.errors import (
    AccountRefused,
    AcmeError,
    BudgetSpent,
    CaClosed,
    CaProblem,
    CaUnreachable,
    ChallengeFailed,
    OrderFailed,
    PreflightFailed,
    StorageError,
    ValidationFailed,
)
from ssl_cert_server.issuers.acme import AcmeCa, CaTerms, KeepOrder
from ssl_cert_server.model import Certificate, KeyFamily, OpenOrder, Permission, Subject
from ssl_cert_server.pki.signing import Validity, make_root, sign_leaf
from ssl_cert_server.service.attempts import Issued, Predecessor, Wanted
from ssl_cert_server.service.authorities import Authorities
from ssl_cert_server.service.budget.limits import NO_LIMITS, CaLimits, Limit
from ssl_cert_server.service.budget.planner import Budget, Priority
from ssl_cert_server.service.ca_health import CaHealth, is_trouble, may_be_the_names
from ssl_cert_server.service.open_orders import OpenOrders
from ssl_cert_server.service.orders import Authority, Orders
from ssl_cert_server.service.preflight import Preflight
from ssl_cert_server.service.records import IssuedRecord
from tests.support.clock import START, ManualClock
from tests.support.faulty_storage import FaultyStorage
from tests.support.leaves import DAY, HOUR, make_certificate
from tests.support.loop_time import LoopTime, settle

WEEK = 7 * DAY
PATIENCE = 300.0
REFUSED = CaProblem("the CA said no", type="rejectedIdentifier", status=403)
DOWN = [
    CaUnreachable("connection refused"),
    CaProblem("down", type="serverInternal", status=503, retry_after=5),
]
STUMBLE = CaProblem("oops", type="serverInternal", status=500)
ONE_ORDER = replace(NO_LIMITS, new_orders=Limit(1, HOUR))


def not_found(challenge: str, name: str = "a.com", *, problem: str = "connection") -> ValidationFailed:
    return ValidationFailed(f"{name}: nothing there", name=name, challenge=challenge, problem=problem)


def want(*names: str, permission: Permission = Permission.LISTED, predecessor: Predecessor | None = None) -> Wanted:
    names = names or ("a.com",)
    return Wanted(Subject(names[0], names, permission=permission), Priority.HANDSHAKE, predecessor)


@dataclass(frozen=True, slots=True)
class Ordered:
    """What was ordered: the names with the challenge types for each, and what it replaces."""

    types: dict[str, tuple[str, ...]]
    replaces: str | None = None
    family: KeyFamily = KeyFamily.ECDSA


class Solver:
    """Stands for one of the challenges by which a CA visits the name itself."""

    def __init__(self, type: str) -> None:
        self.type = type

    async def present(self, name: str, token: str, key_authorization: str) -> None:
        """There is nothing to see: the CA here is scripted."""

    async def cleanup(self, name: str, token: str) -> None:
        """Nothing was put anywhere."""


class Zones(Dns01):
    """Has a provider for a.com and what is below."""

    def __init__(self) -> None:
        """Without the rest of it."""
        self.broken = False

    async def present(self, name: str, token: str, key_authorization: str) -> None:
        """As above."""
        if self.broken:
            raise ChallengeFailed("the provider refused")

    def handles(self, name: str) -> bool:
        return f".{name}".endswith(".a.com")

    async def obstacle(self, name: str) -> str | None:
        return None if self.handles(name) else "it is delegated nowhere"


class Dns:
    """CAA records at names; addresses for none."""

    def __init__(self) -> None:
        self.caas: dict[str, list[CaaRecord]] = {}

    async def addresses(self, name: str) -> tuple[str, ...]:
        return ()

    async def caa(self, name: str) -> list[CaaRecord]:
        return self.caas.get(name, [])


class ScriptedAcme(AcmeCa):
    """Does as the test says: ``down`` is raised before anything else, ``outcomes`` instead of certificates, in turn.

    ``resumable`` are the outcomes of open orders; an order that isn't there is of no use.
    """

    def __init__(self, number: int) -> None:
        self.directory_url = f"https://ca-{number}.test/dir"
        self.identity = f"ca-{number}.test"
        self.down: Exception | None = None
        self.outcomes: list[Exception] = []
        self.resumable: dict[str, list[Exception | Certificate]] = {}
        self.orders: list[Ordered] = []
        self.resumed: list[str] = []
        self.asked = 0
        self.registered = True
        self.account_trouble: Exception | None = None
        self.refusals: list[Exception] = []
        self.hangs = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def terms(self) -> CaTerms:
        self.asked += 1
        await self.gate.wait()
        if self.down:
            raise self.down
        return CaTerms(f"https://{self.identity}/account/1", (self.identity,))

    async def account_url(self) -> str | None:
        if self.account_trouble:
            raise self.account_trouble
        return f"https://{self.identity}/account/1" if self.registered else None

    async def issue(
        self,
        names: Sequence[str],
        family: KeyFamily,
        choice: ChallengeChoice,
        *,
        replaces: str | None,
        before_order: Callable[[], Awaitable[None]],
        before_send: Callable[[], None],
        on_order: KeepOrder,
    ) -> Certificate:
        types = {name: tuple(solver.type for solver in choice(name)) for name in names}
        await before_order()
        before_send()
        if self.refusals:
            raise self.refusals.pop(0)
        self.orders.append(Ordered(types, replaces, family))
        await on_order(OpenOrder(self.directory_url, f"https://{self.identity}/order/{len(self.orders)}", "key"))
        await _prove(names, choice)
        if self.hangs:
            await asyncio.Event().wait()
        if self.outcomes:
            raise self.outcomes.pop(0)
        return make_certificate(*names)

    async def resume(self, names: Sequence[str], choice: ChallengeChoice, order: OpenOrder) -> Certificate | None:
        self.resumed.append(order.order_url)
        outcomes = self.resumable.get(order.order_url)
        if not outcomes:
            return None
        await _prove(names, choice)
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


async def _prove(names: Sequence[str], choice: ChallengeChoice) -> None:
    for name in names:
        await choice(name)[0].present(name.removeprefix("*."), "token", "token.thumbprint")


class Room:
    """As many CAs as there are limits, http-01 and tls-alpn-01, and dns-01 for a.com."""

    def __init__(self, *limits: CaLimits, on_demand: CaLimits = NO_LIMITS) -> None:
        self.clock = ManualClock()
        self.storage = FaultyStorage(self.clock)
        self.dns = Dns()
        self.cas = [ScriptedAcme(number) for number in range(1, len(limits) + 1)]
        self.health = [CaHealth(self.clock) for _ in self.cas]
        self.kept: list[OpenOrder] = []
        self.announced = 0
        self.zones = Zones()
        challenges = Challenges(direct=[Solver("http-01"), Solver("tls-alpn-01")], dns01=self.zones)
        budget = Budget(self.storage, self.clock)
        self.authorities = Authorities(
            [Authority(ca, given, health) for ca, given, health in zip(self.cas, limits, self.health, strict=True)],
            Orders(challenges, Preflight(self.dns, public_ips=[]), budget, self.clock),
            budget,
            self.clock,
            on_demand=on_demand,
            patience=PATIENCE,
        )

    async def issue(self, wanted: Wanted | None = None, order: OpenOrder | None = None) -> Issued:
        self.open = OpenOrders([order] if order else [], self)
        return await self.authorities.issue(wanted or want(), self.open)

    async def announce_order(self, orders: tuple[OpenOrder, ...]) -> None:
        self.announced += 1

    def check_lease(self) -> None:
        """Nobody else is at the name."""

    async def save_orders(self, orders: tuple[OpenOrder, ...]) -> None:
        self.kept.append(orders[-1])

    @property
    def ordered(self) -> list[int]:
        """How many orders each CA was given."""
        return [len(ca.orders) for ca in self.cas]

    async def buckets(self) -> list[str]:
        return sorted(key for key in self.storage._values if key.startswith("_budgets/"))


class TestOrder:
    """The first CA that can."""

    async def test_the_first_one_issues(self) -> None:
        it = Room(NO_LIMITS, NO_LIMITS)
        issued = await it.issue()
        assert issued.certificate.names == {"a.com"}
        assert issued.directory_url == "https://ca-1.test/dir"
        assert issued.challenge == "http-01"
        assert [order.directory_url for order in it.kept] == ["https://ca-1.test/dir"]
        assert it.cas[1].asked == 0

    @pytest.mark.parametrize("down", [*itertools.product([False, True], repeat=3)][:-1])
    async def test_the_first_that_is_not_down_issues(self, down: tuple[bool, ...]) -> None:
        it = Room(NO_LIMITS, NO_LIMITS, NO_LIMITS)
        for ca, is_down in zip(it.cas, down, strict=True):
            ca.down = DOWN[0] if is_down else None
        issued = await it.issue()
        assert issued.directory_url == it.cas[down.index(False)].directory_url
        assert sum(it.ordered) == 1

    @pytest.mark.parametrize("error", DOWN)
    @pytest.mark.parametrize("when", ["at the start", "amid the order"])
    async def test_one_that_is_down_is_left_alone_for_a_while(self, error: Exception, when: str) -> None:
        it = Room(NO_LIMITS, NO_LIMITS)
        if when == "at the start":
            it.cas[0].down = error
        else:
            it.cas[0].outcomes = [error]
        for _ in range(3):
            assert (await it.issue()).directory_url == it.cas[1].directory_url
        assert it.cas[0].asked == 1
        it.cas[0].down = None
        await it.clock.advance(16)
        assert (await it.issue()).directory_url == it.cas[0].directory_url

    async def test_one_name_that_it_always_fails_at_keeps_no_others_from_it(self) -> None:
        it = Room(NO_LIMITS, NO_LIMITS)
        for _ in range(10):
            it.cas[0].refusals = [STUMBLE]
            assert (await it.issue(want("bad.a.com"))).directory_url == it.cas[1].directory_url
        assert (await it.issue()).directory_url == it.cas[0].directory_url

    async def test_where_all_stumble_over_it_the_name_may_be_why(self) -> None:
        it = Room(NO_LIMITS, NO_LIMITS)
        for ca in it.cas:
            ca.refusals = [STUMBLE]
        with pytest.raises(AcmeError, match="oops; oops") as failure:
            await it.issue()
        assert may_be_the_names(failure.value)

    async def test_a_refusal_leads_to_the_next_and_closes_nothing(self) -> None:
        it = Room(NO_LIMITS, NO_LIMITS)
        it.cas[0].outcomes = [REFUSED]
        with capture_logs() as logs:
            assert (await it.issue()).directory_url == it.cas[1].directory_url
        assert [log["directory_url"] for log in logs if log["event"] == "authority.failed"] == [it.cas[0].directory_url]
        assert (await it.issue()).directory_url == it.cas[0].directory_url

    async def test_one_that_refuses_a_name_is_up_again(self) -> None:
        it = Room(NO_LIMITS)
        it.cas[0].outcomes = [DOWN[0], REFUSED, DOWN[0]]
        for error in (CaUnreachable, CaProblem, CaUnreachable):
            with pytest.raises(error):
                await it.issue()
            await it.clock.advance(16)
        assert it.health[0].closed_for == 0, "the pause had begun anew"

    async def test_when_all_are_closed_nobody_is_asked(self) -> None:
        it = Room(NO_LIMITS, NO_LIMITS)
        it.health[0].failed(AcmeError("down", retry_after=300), "x.com")
        it.health[1].failed(AcmeError("down", retry_after=200), "x.com")
        with pytest.raises(CaClosed, match=r"a\.com: every CA failed lately") as closed:
            await it.issue()
        assert closed.value.retry_after == 200
        assert [ca.asked for ca in it.cas] == [0, 0]

    async def test_where_the_only_one_fails_its_own_words_come_out(self) -> None:
        it = Room(NO_LIMITS, NO_LIMITS)
        it.health[0].failed(AcmeError("down"), "x.com")
        it.cas[1].outcomes = [REFUSED]
        with pytest.raises(CaProblem) as failure:
            await it.issue()
        assert failure.value is REFUSED

    async def test_where_all_fail_the_words_of_all_come_out(self) -> None:
        it = Room(NO_LIMITS, NO_LIMITS, NO_LIMITS)
        for ca, wait in zip(it.cas, (None, 900, 300), strict=True):
            ca.outcomes = [CaProblem(f"{ca.identity} said no", type="x", status=403, retry_after=wait)]
        with pytest.raises(AcmeError, match=r"ca-1\.test said no; ca-2\.test said no; ca-3\.test said no") as failure:
            await it.issue()
        assert failure.value.retry_after is None  # the first one may be asked before

    async def test_where_all_are_down_it_is_no_fault_of_the_names(self) -> None:
        it = Room(NO_LIMITS, NO_LIMITS)
        for ca, error in zip(it.cas, DOWN, strict=True):
            ca.down = error
        with pytest.raises(AcmeError, match="connection refused; down") as failure:
            await it.issue()
        assert is_trouble(failure.value)
        assert not may_be_the_names(failure.value)

    async def test_one_that_hangs_keeps_nobody_from_the_next(self) -> None:
        it, time = Room(NO_LIMITS, NO_LIMITS), LoopTime()
        it.cas[0].hangs = True
        for name in ("a.com", "b.com", "c.com"):
            issuing = asyncio.create_task(it.issue(want(name)))
            await settle()
            await time.advance(PATIENCE)
            assert (await issuing).directory_url == it.cas[1].directory_url
        assert it.health[0].closed_for > 0

    async def test_who_waited_for_one_that_fails_goes_on_to_the_next_at_once(self) -> None:
        it = Room(NO_LIMITS, NO_LIMITS)
        it.cas[0].gate.clear()
        it.cas[0].down = DOWN[0]
        issuing = [asyncio.create_task(it.issue(want(f"{number}.a.com"))) for number in range(8)]
        await settle()
        it.cas[0].gate.set()
        assert {issued.directory_url for issued in await asyncio.gather(*issuing)} == {it.cas[1].directory_url}
        assert it.cas[0].asked == 1

    async def test_after_a_pause_one_goes_first(self) -> None:
        it = Room(NO_LIMITS, NO_LIMITS)
        it.health[0].failed(DOWN[0], "x.com")
        await it.clock.advance(16)
        it.cas[0].gate.clear()
        probe = asyncio.create_task(it.issue())
        await settle()
        for name in ("b.a.com", "c.a.com"):
            assert (await it.issue(want(name))).directory_url == it.cas[1].directory_url
        assert it.cas[0].asked == 1
        it.cas[0].gate.set()
        assert (await probe).directory_url == it.cas[0].directory_url
        assert (await it.issue(want("b.a.com"))).directory_url == it.cas[0].directory_url

    @pytest.mark.parametrize("how", ["it is cancelled", "there is no room", "CAA forbids it"])
    async def test_one_that_tells_nothing_holds_up_nobody(self, how: str) -> None:
        it = Room(replace(NO_LIMITS, per_exact_set=Limit(1, WEEK)))
        await it.issue(want("full.a.com"))
        it.dns.caas["no.a.com"] = [CaaRecord(0, "issue", ";")]
        it.health[0].failed(DOWN[0], "x.com")
        await it.clock.advance(16)
        it.cas[0].gate.clear()
        name = {"there is no room": "full.a.com", "CAA forbids it": "no.a.com"}.get(how, "a.com")
        probe = asyncio.create_task(it.issue(want(name)))
        await settle()
        assert it.health[0].closed_for > 0
        if how == "it is cancelled":
            probe.cancel()
        it.cas[0].gate.set()
        [outcome] = await asyncio.gather(probe, return_exceptions=True)
        assert isinstance(outcome, BaseException)
        assert (await it.issue()).directory_url == it.cas[0].directory_url

    async def test_its_order_is_kept_beside_that_at_the_next(self) -> None:
        it, time = Room(NO_LIMITS, NO_LIMITS), LoopTime()
        it.cas[0].hangs = True
        it.cas[1].outcomes = [OrderFailed("the CA changed its mind")]
        issuing = asyncio.create_task(it.issue())
        await settle()
        await time.advance(PATIENCE)
        with pytest.raises(AcmeError):
            await issuing
        assert [order.directory_url for order in it.open.all] == [it.cas[0].directory_url]

    async def test_one_that_gives_no_account_is_left_alone(self) -> None:
        """Asked for every name, it would give none for longer."""
        it = Room(NO_LIMITS, NO_LIMITS)
        it.cas[0].down = AccountRefused("no account: too many registrations", retry_after=900)
        for name in ("a.com", "b.com", "c.com"):
            assert (await it.issue(want(name))).directory_url == it.cas[1].directory_url
        assert it.cas[0].asked == 1
        assert it.health[0].closed_for == 900

    async def test_storage_that_fails_is_no_reason_to_ask_another(self) -> None:
        it = Room(ONE_ORDER, NO_LIMITS)
        it.storage.break_down("get", "put")
        with pytest.raises(StorageError):
            await it.issue()
        assert it.ordered == [0, 0]


class TestOpenOrders:
    """Gone on with where they were placed."""

    def order(self, ca: ScriptedAcme) -> OpenOrder:
        return OpenOrder(ca.directory_url, f"https://{ca.identity}/order/7", "key")

    async def test_the_ca_that_has_it_comes_first(self) -> None:
        it = Room(NO_LIMITS, ONE_ORDER)
        order, certificate = self.order(it.cas[1]), make_certificate("a.com")
        it.cas[1].resumable[order.order_url] = [certificate]
        issued = await it.issue(order=order)
        assert (issued.certificate, issued.directory_url) == (certificate, it.cas[1].directory_url)
        assert it.ordered == [0, 0]
        assert it.cas[0].asked == 0
        assert await it.buckets() == [], "it was paid for"

    async def test_one_of_no_use_is_placed_anew_at_the_same_ca(self) -> None:
        it = Room(NO_LIMITS, NO_LIMITS)
        order = self.order(it.cas[1])
        assert (await it.issue(order=order)).directory_url == it.cas[1].directory_url
        assert it.cas[1].resumed == [order.order_url]
        assert it.ordered == [0, 1]

    async def test_one_of_no_use_is_forgotten_though_the_next_is_refused(self) -> None:
        it = Room(NO_LIMITS)
        it.cas[0].refusals = [REFUSED]
        with pytest.raises(CaProblem):
            await it.issue(order=self.order(it.cas[0]))
        assert it.open.all == ()

    async def test_while_that_ca_is_closed_another_one_takes_it(self) -> None:
        it = Room(NO_LIMITS, NO_LIMITS)
        it.health[1].failed(AcmeError("down"), "x.com")
        assert (await it.issue(order=self.order(it.cas[1]))).directory_url == it.cas[0].directory_url
        assert [ca.resumed for ca in it.cas] == [[], []]

    async def test_one_of_a_ca_that_is_not_configured_any_more_is_placed_anew(self) -> None:
        it = Room(NO_LIMITS, NO_LIMITS)
        order = OpenOrder("https://other.example/dir", "https://other.example/order/7", "key")
        assert (await it.issue(order=order)).directory_url == it.cas[0].directory_url
        assert [ca.resumed for ca in it.cas] == [[], []]

    async def test_a_failed_challenge_of_it_is_noted_and_another_tried(self) -> None:
        it = Room(replace(NO_LIMITS, failed_authorizations=Limit(5, HOUR)))
        order = self.order(it.cas[0])
        it.cas[0].resumable[order.order_url] = [not_found("http-01")]
        assert (await it.issue(order=order)).challenge == "tls-alpn-01"
        assert it.cas[0].resumed == [order.order_url]
        assert [key.split("/")[-2] for key in await it.buckets()] == ["failed_authorizations"]


class TestChallenges:
    """What the name and the configuration allow, in turn."""

    async def test_after_one_failed_the_next_is_tried_in_a_new_order(self) -> None:
        it = Room(NO_LIMITS, NO_LIMITS)
        it.cas[0].outcomes = [not_found("http-01"), not_found("tls-alpn-01")]
        issued = await it.issue()
        assert issued.challenge == "dns-01"
        assert [order.types["a.com"] for order in it.cas[0].orders] == [
            ("http-01", "tls-alpn-01", "dns-01"),
            ("tls-alpn-01", "dns-01"),
            ("dns-01",),
        ]
        assert len(it.kept) == 3
        assert it.ordered == [3, 0]

    async def test_only_the_name_that_failed_is_proven_otherwise(self) -> None:
        it = Room(NO_LIMITS)
        it.cas[0].outcomes = [not_found("http-01", "b.com")]
        await it.issue(want("a.com", "b.com"))
        assert it.cas[0].orders[1].types == {
            "a.com": ("http-01", "tls-alpn-01", "dns-01"),
            "b.com": ("tls-alpn-01",),
        }

    async def test_when_none_is_left_no_other_ca_is_asked(self) -> None:
        it = Room(NO_LIMITS, NO_LIMITS)
        it.cas[0].outcomes = [not_found("http-01", "b.com"), not_found("tls-alpn-01", "b.com")]
        with pytest.raises(ValidationFailed, match="nothing there"):
            await it.issue(want("b.com"))
        assert it.ordered == [2, 0]
        assert it.health[0].closed_for == 0

    @pytest.mark.parametrize("problem", ["caa", "rejectedIdentifier", "serverInternal", "rateLimited"])
    async def test_what_is_of_the_ca_itself_leads_to_the_next_ca_and_to_no_other_type(self, problem: str) -> None:
        it = Room(NO_LIMITS, NO_LIMITS)
        it.cas[0].outcomes = [not_found("http-01", problem=problem)]
        issued = await it.issue()
        assert (issued.directory_url, issued.challenge) == (it.cas[1].directory_url, "http-01")
        assert it.ordered == [1, 1]

    @pytest.mark.parametrize(("problem", "trouble"), [("caa", False), ("rateLimited", False), ("serverInternal", True)])
    async def test_only_its_own_trouble_is_no_fault_of_the_names(self, problem: str, trouble: bool) -> None:
        it = Room(replace(NO_LIMITS, failed_authorizations=Limit(1, HOUR)))
        it.cas[0].outcomes = [not_found("http-01", problem=problem)]
        with pytest.raises(ValidationFailed) as failure:
            await it.issue()
        assert is_trouble(failure.value) == may_be_the_names(failure.value) == trouble
        with pytest.raises(BudgetSpent, match="failed authorizations"):
            await it.issue()

    async def test_each_failure_is_noted_in_the_budget(self) -> None:
        it = Room(replace(NO_LIMITS, failed_authorizations=Limit(2, HOUR)))
        it.cas[0].outcomes = [not_found("http-01", "b.com"), not_found("tls-alpn-01", "b.com")]
        with pytest.raises(ValidationFailed):
            await it.issue(want("b.com"))
        with pytest.raises(BudgetSpent, match=r"failed authorizations of b\.com") as spent:
            await it.issue(want("b.com"))
        assert not spent.value.everyone
        assert (await it.issue()).certificate.names == {"a.com"}

    async def test_an_answer_that_could_not_be_put_in_place_is_no_matter_of_the_ca(self) -> None:
        it = Room(NO_LIMITS, NO_LIMITS)
        it.cas[0].outcomes = [ChallengeFailed("the DNS provider refused")]
        with pytest.raises(ChallengeFailed):
            await it.issue()
        assert it.ordered == [1, 0]
        assert it.health[0].closed_for == 0

    async def test_where_it_cannot_be_put_in_place_the_next_type_goes_on_with_the_same_order(self) -> None:
        """Else a key that a DNS provider takes no more would end what http-01 can renew as well."""
        it = Room(NO_LIMITS)
        it.zones.broken = True
        old = make_certificate("a.com")
        wanted = want(predecessor=Predecessor(old, IssuedRecord(old.fingerprint, "", "dns-01")))
        it.cas[0].resumable["https://ca-1.test/order/1"] = [make_certificate("a.com")]
        with capture_logs() as logs:
            issued = await it.issue(wanted)
        assert it.cas[0].orders[0].types["a.com"][0] == "dns-01"
        assert issued.challenge == "http-01", "it goes first from now on"
        assert (it.ordered, it.cas[0].resumed) == ([1], ["https://ca-1.test/order/1"])
        [told] = [log for log in logs if log["event"] == "authority.other_challenge"]
        assert (told["failed"], told["next"], told["reason"]) == ("dns-01", "http-01", "the provider refused")

    async def test_where_no_other_type_is_left_it_fails_and_the_order_is_kept(self) -> None:
        it = Room(NO_LIMITS, NO_LIMITS)
        it.zones.broken = True
        with pytest.raises(ChallengeFailed, match="the provider refused"):
            await it.issue(want("*.a.com"))
        assert it.ordered == [1, 0]
        assert it.open.all == (it.kept[0],)

    async def test_what_worked_before_goes_first(self) -> None:
        it = Room(NO_LIMITS)
        old = make_certificate("a.com")
        issued = await it.issue(want(predecessor=Predecessor(old, IssuedRecord(old.fingerprint, "", "dns-01"))))
        assert issued.challenge == "dns-01"
        assert it.cas[0].orders[0].types["a.com"] == ("dns-01", "http-01", "tls-alpn-01")

    @pytest.mark.parametrize(
        ("name", "types"),
        [
            ("*.a.com", ("dns-01",)),
            ("b.com", ("http-01", "tls-alpn-01")),
            ("192.0.2.1", ("http-01", "tls-alpn-01")),
            ("2001:db8::1", ("http-01", "tls-alpn-01")),
        ],
    )
    async def test_a_name_is_proven_by_what_it_can_be(self, name: str, types: tuple[str, ...]) -> None:
        it = Room(NO_LIMITS)
        await it.issue(want(name))
        assert it.cas[0].orders[0].types == {name: types}

    async def test_without_any_nothing_is_ordered_and_the_remedy_told(self) -> None:
        it = Room(ONE_ORDER)
        with pytest.raises(PreflightFailed, match=r"\*\.b\.com: no challenge .* wildcards need challenges\.dns01"):
            await it.issue(want("*.b.com"))
        assert it.ordered == [0]
        assert await it.buckets() == []

    async def test_a_ca_that_caa_forbids_costs_nothing_and_the_next_is_asked(self) -> None:
        it = Room(ONE_ORDER, ONE_ORDER)
        it.dns.caas["a.com"] = [CaaRecord(0, "issue", "ca-2.test")]
        assert (await it.issue()).directory_url == it.cas[1].directory_url
        assert it.ordered == [0, 1]
        it.dns.caas["a.com"] = [CaaRecord(0, "issue", ";")]
        with pytest.raises(AcmeError, match=r"the CAA records at a\.com permit no CA at all"):
            await it.issue()
        assert it.ordered == [0, 1]
        assert [health.closed_for for health in it.health] == [0, 0]

    async def test_what_caa_leaves_is_tried(self) -> None:
        it = Room(NO_LIMITS)
        it.dns.caas["a.com"] = [CaaRecord(0, "issue", "ca-1.test; validationmethods=dns-01")]
        assert (await it.issue()).challenge == "dns-01"


class TestBudget:
    """No CA is asked for more than it allows."""

    async def test_where_the_first_has_no_room_the_second_issues(self) -> None:
        it = Room(ONE_ORDER, NO_LIMITS)
        assert [(await it.issue(want(name))).directory_url for name in ("a.com", "b.com")] == [
            ca.directory_url for ca in it.cas
        ]
        assert it.health[0].closed_for == 0

    async def test_where_none_has_room_the_one_that_has_it_first_is_waited_for(self) -> None:
        it = Room(ONE_ORDER, replace(NO_LIMITS, new_orders=Limit(1, 60)))
        for name in ("a.com", "b.com"):
            await it.issue(want(name))
        with pytest.raises(BudgetSpent) as spent:
            await it.issue(want("c.com"))
        assert spent.value.retry_after == pytest.approx(60)
        it.clock.jump(spent.value.retry_after)
        assert (await it.issue(want("c.com"))).directory_url == it.cas[1].directory_url

    async def test_a_refusal_counts_though_another_has_no_room(self) -> None:
        """Else each request would place another order at the one that refuses."""
        it = Room(ONE_ORDER, NO_LIMITS)
        await it.issue()
        it.cas[1].outcomes = [REFUSED]
        with pytest.raises(AcmeError, match=r"no room for more new orders .*; the CA said no") as refusal:
            await it.issue()
        assert not is_trouble(refusal.value)

    async def test_an_outage_uses_nothing_up(self) -> None:
        it = Room(ONE_ORDER)
        it.cas[0].down = DOWN[0]
        for _ in range(5):
            with pytest.raises(CaUnreachable):
                await it.issue()
            await it.clock.advance(1000)
        it.cas[0].down = None
        assert await it.buckets() == []
        await it.issue()

    @pytest.mark.parametrize("error", DOWN)
    async def test_what_was_never_ordered_counts_no_certificate(self, error: AcmeError) -> None:
        """Else a bad quarter of an hour would use up what a name has for a week."""
        it = Room(replace(NO_LIMITS, per_exact_set=Limit(1, WEEK), per_registered_domain=Limit(1, WEEK)))
        it.cas[0].refusals = [error] * 20
        for _ in range(20):
            with pytest.raises(type(error)):
                await it.issue()
            await it.clock.advance(700)
        await it.issue()

    async def test_an_order_whose_answer_was_lost_may_have_been_counted(self) -> None:
        it = Room(ONE_ORDER)
        it.cas[0].refusals = [DOWN[0]]
        with pytest.raises(CaUnreachable):
            await it.issue()
        await it.clock.advance(16)
        with pytest.raises(BudgetSpent):
            await it.issue()

    async def test_what_the_ca_refused_costs_nothing(self) -> None:
        it = Room(CaLimits(Limit(1, WEEK), Limit(1, WEEK), Limit(1, WEEK), None))
        it.cas[0].refusals = [REFUSED] * 20
        for number in range(20):
            with pytest.raises(CaProblem):
                await it.issue(want(f"x{number}.a.com"))
        await it.issue(want("good.a.com"))

    async def test_a_name_fails_though_there_is_no_room_for_the_next_challenge(self) -> None:
        """Else a dead name would be ordered again as soon as there is, all day long."""
        it = Room(replace(NO_LIMITS, failed_authorizations=Limit(1, HOUR)))
        it.cas[0].outcomes = [not_found("http-01")]
        with pytest.raises(ValidationFailed):
            await it.issue()
        assert it.ordered == [1]

    async def test_a_failure_of_what_was_not_tried_ends_it(self) -> None:
        it = Room(NO_LIMITS)
        it.cas[0].outcomes = [not_found("dns-persist-01")]
        with pytest.raises(ValidationFailed):
            await it.issue()
        assert it.ordered == [1]

    async def test_an_order_that_failed_counts_no_certificate(self) -> None:
        it = Room(replace(NO_LIMITS, per_exact_set=Limit(1, WEEK), per_registered_domain=Limit(1, WEEK)))
        it.cas[0].outcomes = [OrderFailed("the CA changed its mind")]
        with pytest.raises(OrderFailed):
            await it.issue()
        await it.issue()
        with pytest.raises(BudgetSpent):
            await it.issue()

    @pytest.mark.parametrize("error", [REFUSED, CaProblem("not found", type="malformed", status=404)])
    async def test_one_that_is_refused_after_it_was_placed_counts_and_is_kept(self, error: CaProblem) -> None:
        """The CA may have issued: what it counted must not be forgotten here."""
        it = Room(replace(NO_LIMITS, per_exact_set=Limit(1, WEEK)))
        it.cas[0].outcomes = [error]
        with pytest.raises(CaProblem):
            await it.issue()
        [order] = it.open.all
        it.cas[0].resumable[order.order_url] = [error, make_certificate("a.com")]
        with pytest.raises(CaProblem):
            await it.issue(order=order)
        assert it.open.all == (order,)
        with pytest.raises(BudgetSpent):
            await it.issue()
        await it.issue(order=order)
        assert it.ordered == [1]

    async def test_a_limit_that_the_ca_told_of_is_kept(self) -> None:
        it = Room(NO_LIMITS, NO_LIMITS)
        limited = CaProblem("too many new orders recently", type="rateLimited", status=429, retry_after=600)
        it.cas[0].outcomes = [limited]
        for name in ("a.com", "b.com"):
            assert (await it.issue(want(name))).directory_url == it.cas[1].directory_url
        assert it.ordered == [1, 2]
        assert it.health[0].closed_for == 0, "it is up"
        it.clock.jump(600)
        assert (await it.issue()).directory_url == it.cas[0].directory_url

    async def test_a_429_that_is_not_the_cas_own_is_about_everyone(self) -> None:
        """A proxy before the CA has had enough of us: each further name would only make it worse."""
        it = Room(replace(NO_LIMITS, new_orders=Limit(300, HOUR)))
        html = "HTTP 429: about:blank: <html>Too Many Requests"
        it.cas[0].refusals = [CaProblem(html, type="about:blank", status=429, retry_after=600)]
        with pytest.raises(CaProblem) as refusal:
            await it.issue()
        assert is_trouble(refusal.value), "it is no fault of the name's"
        assert it.health[0].closed_for == 600
        with pytest.raises(CaClosed):
            await it.issue(want("b.com"))
        it.health[0].worked()  # as another instance sees it
        for name in ("b.com", "c.com"):
            with pytest.raises(BudgetSpent, match="orders of this account: the CA takes none") as spent:
                await it.issue(want(name))
            assert spent.value.retry_after == pytest.approx(600)
        it.clock.jump(600)
        await it.issue(want("b.com"))

    async def test_names_that_the_ca_limits_keep_no_others_from_it(self) -> None:
        it = Room(NO_LIMITS)
        words = 'too many certificates (50) already issued for "a.com" in the last 168h0m0s'
        it.cas[0].outcomes = [CaProblem(words, type="rateLimited", status=429, retry_after=600)]
        with pytest.raises(CaProblem):
            await it.issue()
        with pytest.raises(BudgetSpent):
            await it.issue(want("www.a.com"))
        await it.issue(want("b.com"))

    async def test_the_sweep_forgets_what_is_full_again(self) -> None:
        it = Room(ONE_ORDER, ONE_ORDER, on_demand=ONE_ORDER)
        it.cas[1].registered = False
        await it.issue(want(permission=Permission.ASK))
        assert len(await it.buckets()) == 2
        sweeping = asyncio.create_task(it.authorities.sweep())
        await settle()
        assert len(await it.buckets()) == 2
        it.clock.jump(HOUR)
        await it.clock.advance(3.3 * DAY)
        assert await it.buckets() == []
        sweeping.cancel()

    async def test_an_account_that_can_not_be_used_keeps_the_sweep_from_no_other(self) -> None:
        it = Room(ONE_ORDER, ONE_ORDER, on_demand=ONE_ORDER)
        it.cas[0].down = DOWN[0]
        await it.issue(want(permission=Permission.ASK))
        it.cas[0].account_trouble = StorageError("the account's key can't be used")
        it.clock.jump(5 * DAY)
        sweeping = asyncio.create_task(it.authorities.sweep())
        with capture_logs() as logs:
            await settle()
        assert await it.buckets() == []
        assert [(log["event"], log["folder"]) for log in logs] == [("storage.passed_over", "_budgets")]
        assert it.clock.sleeps[-1] < 2 * HOUR, "that one has its turn soon"
        sweeping.cancel()


class TestRenewals:
    """They say what they replace to the CA that issued it, and are counted as that CA counts them."""

    limits = CaLimits(Limit(1, WEEK), Limit(1, WEEK), Limit(2, WEEK), None)

    def predecessor(self, ca: ScriptedAcme, *, current: bool = False, name: str = "a.com") -> Predecessor:
        root = make_root("test", Validity(int(START - WEEK), int(START + 900 * DAY)))
        certificate = sign_leaf(root, name, Validity(int(START - DAY), int(START + 89 * DAY)))
        end = START + DAY if current else START
        return Predecessor(
            certificate,
            IssuedRecord(certificate.fingerprint, ca.directory_url, "http-01", START - 1, end, START - 1, START + 1),
        )

    async def test_the_one_that_is_replaced_is_named(self) -> None:
        it = Room(NO_LIMITS)
        predecessor = self.predecessor(it.cas[0])
        await it.issue(want(predecessor=predecessor))
        [order] = it.cas[0].orders
        assert order.replaces == ari_id(predecessor.certificate.chain_pem) is not None

    async def test_to_another_ca_it_is_not(self) -> None:
        it = Room(NO_LIMITS, NO_LIMITS)
        it.cas[0].down = DOWN[0]
        await it.issue(want(predecessor=self.predecessor(it.cas[0])))
        assert it.cas[1].orders[0].replaces is None

    async def test_one_of_the_same_names_is_no_new_order(self) -> None:
        it = Room(self.limits)
        await it.issue()
        await it.issue(want(predecessor=self.predecessor(it.cas[0])))
        with pytest.raises(BudgetSpent, match=r"exactly a\.com"):
            await it.issue(want(predecessor=self.predecessor(it.cas[0])))

    async def test_within_its_window_no_limit_holds(self) -> None:
        it = Room(self.limits)
        for _ in range(10):
            await it.issue(want(predecessor=self.predecessor(it.cas[0], current=True)))
        with pytest.raises(BudgetSpent):
            await it.issue()

    async def test_one_from_before_is_none_either_and_is_not_named(self) -> None:
        """What was taken over would else be new at a CA that knows better: 50 names of a domain a week."""
        it = Room(self.limits)
        await it.issue()
        known = self.predecessor(it.cas[0], current=True)
        await it.issue(want(predecessor=Predecessor(known.certificate, IssuedRecord(known.certificate.fingerprint))))
        assert it.cas[0].orders[1].replaces is None

    async def test_one_that_expired_is_none_either_and_is_not_named(self) -> None:
        it = Room(self.limits)
        await it.issue()
        known = self.predecessor(it.cas[0])
        it.clock.jump(90 * DAY)
        await it.issue()
        await it.issue(want(predecessor=known))
        assert [order.replaces for order in it.cas[0].orders] == [None] * 3

    async def test_one_of_other_names_is_a_new_order(self) -> None:
        it = Room(self.limits)
        await it.issue()
        with pytest.raises(BudgetSpent, match="new orders"):
            await it.issue(want("a.com", "b.com", predecessor=self.predecessor(it.cas[0])))

    async def test_what_another_ca_issued_is_a_new_order_here(self) -> None:
        it = Room(self.limits, NO_LIMITS)
        await it.issue()
        predecessor = self.predecessor(it.cas[1], current=True)
        assert (await it.issue(want(predecessor=predecessor))).directory_url == it.cas[1].directory_url

    async def test_one_that_names_no_issuers_key_is_renewed_without_saying_so(self) -> None:
        it = Room(self.limits)
        predecessor = replace(self.predecessor(it.cas[0], current=True), certificate=make_certificate("a.com"))
        await it.issue()
        await it.issue(want(predecessor=predecessor))
        assert it.cas[0].orders[1].replaces is None
        with pytest.raises(BudgetSpent, match=r"exactly a\.com"):
            await it.issue(want(predecessor=predecessor))


class TestOnDemand:
    """Our own limits on what strangers bring up."""

    @pytest.mark.parametrize("permission", [Permission.PATTERN, Permission.ASK])
    async def test_strangers_names_are_limited(self, permission: Permission) -> None:
        it = Room(NO_LIMITS, NO_LIMITS, on_demand=ONE_ORDER)
        await it.issue(want("a.com", permission=permission))
        with pytest.raises(BudgetSpent):
            await it.issue(want("b.com", permission=permission))
        assert it.ordered == [1, 0]

    async def test_those_that_are_listed_are_not(self) -> None:
        it = Room(NO_LIMITS, on_demand=ONE_ORDER)
        for name in ("a.com", "b.com", "c.com"):
            await it.issue(want(name))
        await it.issue(want("d.com", permission=Permission.ASK))

    async def test_nor_are_renewals(self) -> None:
        it = Room(NO_LIMITS, on_demand=ONE_ORDER)
        await it.issue(want(permission=Permission.ASK))
        old = make_certificate("a.com")
        predecessor = Predecessor(old, IssuedRecord(old.fingerprint))
        await it.issue(want(permission=Permission.ASK, predecessor=predecessor))

    async def test_a_domain_full_of_names_is_limited(self) -> None:
        it = Room(NO_LIMITS, on_demand=replace(NO_LIMITS, per_registered_domain=Limit(2, DAY)))
        for name in ("1.a.com", "2.a.com", "1.b.com"):
            await it.issue(want(name, permission=Permission.PATTERN))
        with pytest.raises(BudgetSpent) as spent:
            await it.issue(want("3.a.com", permission=Permission.PATTERN))
        assert not spent.value.everyone

    async def test_what_the_cas_limit_refuses_is_given_back(self) -> None:
        it = Room(replace(NO_LIMITS, per_registered_domain=Limit(1, WEEK)), on_demand=ONE_ORDER)
        await it.issue(want("a.com"))
        for _ in range(3):
            with pytest.raises(BudgetSpent, match=r"a\.com and the names below it"):
                await it.issue(want("www.a.com", permission=Permission.ASK))
        await it.issue(want("b.com", permission=Permission.ASK))
