"""The budget: which limits hold for whom, over instances, and what a CA's refusals do to it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

import pytest
from structlog.testing import capture_logs

from ssl_cert_server.errors import BudgetSpent, CaProblem, Overloaded, StorageError
from ssl_cert_server.service.budget.buckets import LimitKind, Scope
from ssl_cert_server.service.budget.limits import LETS_ENCRYPT, NO_LIMITS, CaLimits, Limit
from ssl_cert_server.service.budget.planner import Budget, OrderKind, Priority, Taken
from tests.support.clock import ManualClock
from tests.support.faulty_storage import FaultyStorage

ACCOUNT = "https://acme.example/directory https://acme.example/acct/1"
HOUR, DAY, WEEK = 3600.0, 86_400.0, 604_800.0
NEW, RENEWAL, ARI = OrderKind


class Till:
    """A budget with one CA's limits, asked the way tests like to ask."""

    def __init__(self, storage: FaultyStorage, clock: ManualClock, limits: CaLimits = LETS_ENCRYPT) -> None:
        self.budget = Budget(storage, clock)
        self.limits = limits

    async def take(self, *names: str, kind: OrderKind = NEW, priority: Priority = Priority.EXPIRING) -> Taken:
        return await self.budget.take(ACCOUNT, self.limits, names, kind, priority)

    async def drain(
        self, names: Sequence[str] | str, kind: OrderKind = NEW, priority: Priority = Priority.EXPIRING
    ) -> tuple[int, BudgetSpent]:
        """Take until there is no more; ``{}`` in a name is the number of the order."""
        pattern = (names,) if isinstance(names, str) else names
        for number in range(1000):
            try:
                await self.take(*(name.format(number) for name in pattern), kind=kind, priority=priority)
            except BudgetSpent as spent:
                return number, spent
        raise AssertionError("there is no limit")

    async def refuse(self, name: str, detail: str, retry_after: float | None = None) -> None:
        problem = CaProblem(f"HTTP 429: {detail}", type="rateLimited", status=429, retry_after=retry_after)
        await self.budget.refused(ACCOUNT, self.limits, [name], problem)


@pytest.fixture
def till(storage: FaultyStorage, clock: ManualClock) -> Till:
    return Till(storage, clock)


def stored(storage: FaultyStorage) -> list[str]:
    return [*storage._values]


async def test_a_bucket_that_no_order_can_do_without_is_read_again_until_it_can_be(
    till: Till, storage: FaultyStorage
) -> None:
    key = Scope(LimitKind.NEW_ORDERS).key(ACCOUNT)
    storage.break_down("get", key=key)
    await till.budget.check_readable()  # nobody needed it
    with pytest.raises(StorageError):
        await till.take("a.com")
    with pytest.raises(StorageError):
        await till.budget.check_readable()
    storage.repair()
    await till.budget.check_readable()
    storage.break_down("get", key=key)
    await till.budget.check_readable()


async def test_a_bucket_of_one_name_is_a_matter_of_that_name(till: Till, storage: FaultyStorage) -> None:
    storage.break_down("get", key=Scope.failures(["a.com"])[0].key(ACCOUNT))
    with pytest.raises(StorageError):
        await till.take("a.com")
    await till.budget.check_readable()


async def test_new_orders_of_the_account_are_counted(till: Till, clock: ManualClock) -> None:
    number, spent = await till.drain("site.example-{}.com")
    assert number == 300
    assert spent.everyone
    assert spent.retry_after == pytest.approx(36)
    assert str(spent) == (
        "site.example-300.com: no room for more new orders of this account: the limit is 300/3h; again in 36 s"
    )
    await clock.advance(spent.retry_after)
    assert (await till.drain("another.example-{}.com"))[0] == 1


async def test_certificates_of_a_registered_domain_are_counted(till: Till) -> None:
    number, spent = await till.drain("site{}.example.co.uk")
    assert number == 50
    assert not spent.everyone
    assert spent.retry_after == pytest.approx(WEEK / 50)
    assert "certificates for example.co.uk and the names below it" in str(spent)
    await till.take("site.other.co.uk")


async def test_one_set_of_names_is_counted_in_any_order(till: Till) -> None:
    for names in (["a.com", "b.com"], ["b.com", "a.com"], ["a.com", "b.com", "a.com"], ["a.com", "b.com"]):
        await till.take(*names)
    await till.take("a.com")
    number, spent = await till.drain(["b.com", "a.com"])
    assert number == 1
    assert not spent.everyone
    assert "certificates for exactly a.com,b.com" in str(spent)
    assert spent.retry_after == pytest.approx(WEEK / 5)


async def test_an_order_for_many_domains_takes_from_each(till: Till) -> None:
    for number in range(50):
        await till.take(f"s{number}.a.com", f"s{number}.b.com")
    for name in ("new.a.com", "new.b.com"):
        with pytest.raises(BudgetSpent):
            await till.take(name)


async def test_all_buckets_at_once_or_none(till: Till, storage: FaultyStorage) -> None:
    await till.drain("site{}.spent.com")
    before = dict(storage._values)
    with pytest.raises(BudgetSpent):
        await till.take("a.free.com", "a.spent.com")
    assert storage._values == before


async def test_the_longest_wait_is_told(till: Till, clock: ManualClock) -> None:
    await till.drain("site{}.spent.com")
    await till.drain("site.example-{}.com")
    with pytest.raises(BudgetSpent, match=r"spent\.com and the names below it") as refusal:
        await till.take("new.spent.com")
    assert not refusal.value.everyone
    await clock.advance(refusal.value.retry_after)
    await till.take("new.spent.com")


async def test_a_renewal_is_exempt_from_all_but_its_exact_set(till: Till) -> None:
    await till.drain("site{}.spent.com")
    await till.drain("site.example-{}.com")
    number, spent = await till.drain("site0.spent.com", RENEWAL, Priority.RENEWAL)
    assert number == 4
    assert "exactly site0.spent.com" in str(spent)


async def test_a_replacement_in_its_window_is_exempt_but_counted(till: Till, clock: ManualClock) -> None:
    await till.drain("a.com")
    for _ in range(20):
        await till.take("a.com", kind=ARI, priority=Priority.RENEWAL)
    for _ in range(20):
        await till.take("b.com", kind=ARI, priority=Priority.RENEWAL)
    number, spent = await till.drain("b.com", RENEWAL)
    assert number == 0
    await clock.advance(spent.retry_after)
    await till.take("b.com", kind=RENEWAL)


@pytest.mark.parametrize(
    ("priority", "orders"),
    [(Priority.EXPIRING, 300), (Priority.HANDSHAKE, 294), (Priority.PRELOAD, 270), (Priority.RENEWAL, 240)],
)
async def test_less_urgent_ones_leave_new_orders_for_the_others(till: Till, priority: Priority, orders: int) -> None:
    assert (await till.drain("site.example-{}.com", priority=priority))[0] == orders
    assert (await till.drain("another.example-{}.com"))[0] == 300 - orders


@pytest.mark.parametrize(
    ("priority", "orders"),
    [(Priority.EXPIRING, 50), (Priority.HANDSHAKE, 49), (Priority.PRELOAD, 45), (Priority.RENEWAL, 40)],
)
async def test_less_urgent_ones_leave_certificates_of_a_domain(till: Till, priority: Priority, orders: int) -> None:
    number, spent = await till.drain("site{}.example.com", priority=priority)
    assert number == orders
    assert spent.retry_after == pytest.approx(WEEK / 50)


@pytest.mark.parametrize("kind", list(OrderKind))
async def test_a_name_that_failed_too_often_is_refused(till: Till, clock: ManualClock, kind: OrderKind) -> None:
    for _ in range(5):
        await till.budget.order_failed(await till.take("dead.com", kind=kind))
        await till.budget.authorization_failed(ACCOUNT, LETS_ENCRYPT, "dead.com")
    with pytest.raises(BudgetSpent, match=r"failed authorizations of dead\.com: the limit is 5/1h") as refusal:
        await till.take("alive.com", "dead.com", kind=kind)
    assert not refusal.value.everyone
    assert refusal.value.retry_after == pytest.approx(720)
    await till.take("alive.com", kind=kind)
    await clock.advance(refusal.value.retry_after)
    await till.take("dead.com", kind=kind)


async def test_failures_past_the_limit_cost_no_further_time(till: Till) -> None:
    for _ in range(50):
        await till.budget.authorization_failed(ACCOUNT, LETS_ENCRYPT, "dead.com")
    with pytest.raises(BudgetSpent) as refusal:
        await till.take("dead.com")
    assert refusal.value.retry_after == pytest.approx(720)


async def fail_for_days(till: Till, clock: ManualClock, pattern: str, names: int, days: int = 2) -> None:
    for day in range(days):
        await clock.advance(DAY if day else 0)
        for number in range(names):
            await till.budget.authorization_failed(ACCOUNT, LETS_ENCRYPT, pattern.format(number))
    await clock.advance(HOUR)


async def test_names_that_fail_day_after_day_leave_the_others_what_is_short(till: Till, clock: ManualClock) -> None:
    await fail_for_days(till, clock, "dead.example-{}.com", 231)
    number, spent = await till.drain("dead.example-{}.com")
    assert number == 150 + 75, "what nobody misses, then a quarter"
    assert "new orders for names that fail day after day: the limit is 75/3h" in str(spent)
    assert not spent.everyone
    assert spent.retry_after == HOUR, "no sooner, though there is room again in 144 s"
    await till.take("dead.example-230.com", kind=RENEWAL)
    assert (await till.drain("site.example-{}.org"))[0] == 75
    await clock.advance(HOUR)
    assert (await till.drain("site.another-{}.org"))[0] == 100
    with pytest.raises(BudgetSpent, match="new orders of this account"):
        await till.take("dead.example-230.com")


async def test_a_name_that_failed_today_is_like_any_other(till: Till, clock: ManualClock) -> None:
    await fail_for_days(till, clock, "site.example-{}.com", 300, days=1)
    assert (await till.drain("site.example-{}.com"))[0] == 300


async def test_a_name_that_the_ca_says_failed_too_often_is_not_one_that_fails_day_after_day(
    till: Till, clock: ManualClock
) -> None:
    for number in range(300):
        await till.refuse(f"site.example-{number}.com", "too many failed authorizations (5)", HOUR)
    await clock.advance(HOUR)
    assert (await till.drain("site.example-{}.com"))[0] == 300


async def test_days_without_a_failure_are_a_new_beginning(till: Till, clock: ManualClock) -> None:
    await fail_for_days(till, clock, "site.example-{}.com", 300, days=3)
    await clock.advance(2 * DAY)
    await fail_for_days(till, clock, "site.example-{}.com", 300, days=1)
    assert (await till.drain("site.example-{}.com"))[0] == 300


async def test_what_is_given_back_can_be_taken_again(till: Till) -> None:
    for _ in range(20):
        await till.budget.give_back(await till.take("a.com"))
    assert (await till.drain("a.com"))[0] == 5


async def test_an_order_that_failed_counts_as_an_order_only(till: Till) -> None:
    limits = CaLimits(Limit(7, HOUR), Limit(3, WEEK), Limit(1, WEEK), None)
    till.limits = limits
    for _ in range(7):
        await till.budget.order_failed(await till.take("a.com"))
    with pytest.raises(BudgetSpent, match="new orders of this account"):
        await till.take("b.com")


async def test_given_back_late_nothing_is_left_to_give(till: Till, clock: ManualClock) -> None:
    till.limits = CaLimits(Limit(2, 200), None, None, None)
    first = await till.take("a.com")
    await till.take("b.com")
    await clock.advance(150)
    await till.take("c.com")
    await till.budget.give_back(first)
    assert (await till.drain("{}.com"))[0] == 0


async def test_instances_share_one_budget(storage: FaultyStorage, clock: ManualClock) -> None:
    one, two = Till(storage, clock), Till(storage, clock)
    for number in range(25):
        await one.take(f"s{number}.a.com")
        await two.take(f"t{number}.a.com")
    for till in (one, two):
        with pytest.raises(BudgetSpent):
            await till.take("new.a.com")


async def test_takes_at_once_from_two_instances_overdraw_nothing(storage: FaultyStorage, clock: ManualClock) -> None:
    tills = [Till(storage, clock), Till(storage, clock)]
    tasks = [asyncio.create_task(tills[number % 2].take(f"s{number}.a.com")) for number in range(80)]
    for _ in range(200):
        await clock.advance(0.5)
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert Counter(type(outcome) for outcome in outcomes) == {Taken: 50, BudgetSpent: 30}


async def test_accounts_do_not_share(till: Till) -> None:
    await till.drain("site{}.a.com")
    await till.budget.take("another", LETS_ENCRYPT, ["new.a.com"], NEW, Priority.EXPIRING)


async def test_the_order_on_demand_budget_is_one_more_account(till: Till) -> None:
    limits = CaLimits(Limit(3, HOUR), Limit(2, HOUR), None, None)
    take = till.budget.take
    for name in ("a.x.com", "b.x.com"):
        await take("on_demand", limits, [name], NEW, Priority.EXPIRING)
    with pytest.raises(BudgetSpent, match=r"certificates for x\.com"):
        await take("on_demand", limits, ["c.x.com"], NEW, Priority.EXPIRING)


async def test_without_limits_nothing_is_written(till: Till, storage: FaultyStorage) -> None:
    till.limits = NO_LIMITS
    storage.break_down("put", "delete")
    for number in range(1000):
        await till.take(f"{number}.com")
    await till.budget.authorization_failed(ACCOUNT, NO_LIMITS, "a.com")
    await till.budget.give_back(await till.take("a.com"))
    assert stored(storage) == []


async def test_a_take_costs_few_storage_operations(storage: FaultyStorage, till: Till) -> None:
    seen: Counter[str] = Counter()

    def noted(operation: str, key: str) -> bool:
        seen[operation] += 1
        return False

    storage.broken = noted
    await till.take("a.com")
    assert seen == {"acquire": 1, "get": 5, "put": 3}
    seen.clear()
    await till.take("a.com", kind=RENEWAL)
    assert seen == {"acquire": 1, "get": 3, "put": 1}


@pytest.mark.parametrize(
    ("detail", "closed", "open_"),
    [
        ("too many new orders (300) from this account", "b.com", None),
        ('too many certificates (50) already issued for "a.com"', "x.a.com", "b.com"),
        ("too many certificates (5) already issued for this exact set of identifiers", "a.com", "x.a.com"),
        ('too many failed authorizations (5) for "a.com"', "a.com", "x.a.com"),
    ],
)
async def test_a_refusal_closes_what_it_names(
    till: Till, clock: ManualClock, detail: str, closed: str, open_: str | None
) -> None:
    with capture_logs() as logs:
        await till.refuse("a.com", detail, 2 * HOUR)
    assert [(entry["event"], entry["seconds"]) for entry in logs] == [("budget.closed", 7200)]
    with pytest.raises(BudgetSpent, match="the CA takes none; again in 7200 s") as refusal:
        await till.take(closed)
    assert refusal.value.everyone == (open_ is None)
    if open_ is not None:
        await till.take(open_)
    await clock.advance(2 * HOUR)
    await till.take(closed)


async def test_a_bucket_that_the_ca_closed_holds_one_token_when_it_opens(till: Till, clock: ManualClock) -> None:
    await till.refuse("a.com", 'too many certificates (50) already issued for "a.com"', HOUR)
    await clock.advance(HOUR)
    assert (await till.drain("s{}.a.com"))[0] == 1


async def test_giving_back_the_refused_order_opens_nothing(till: Till, clock: ManualClock) -> None:
    taken = await till.take("s.a.com")
    await till.refuse("s.a.com", 'too many certificates (50) already issued for "a.com"', HOUR)
    await till.budget.give_back(taken)
    await clock.advance(HOUR)
    assert (await till.drain("s{}.a.com"))[0] == 1


async def test_a_renewal_goes_on_while_new_orders_are_closed(till: Till) -> None:
    await till.refuse("a.com", "too many new orders (300) from this account")
    for kind in (RENEWAL, ARI):
        await till.take("b.com", kind=kind)


async def test_no_refusal_closes_for_more_than_a_week(till: Till, clock: ManualClock) -> None:
    await till.refuse("a.com", "too many new orders (300) from this account", 1e9)
    await clock.advance(WEEK)
    await till.take("a.com")


async def test_a_refusal_counts_where_no_limit_is_known(till: Till, clock: ManualClock) -> None:
    till.limits = NO_LIMITS
    await till.refuse("a.com", 'too many certificates (9) already issued for "a.com"', 60.0)
    with pytest.raises(BudgetSpent, match="the CA takes none"):
        await till.take("x.a.com")
    await clock.advance(60)
    await till.take("x.a.com")


async def test_unknown_words_about_one_name_hold_up_nobody(till: Till) -> None:
    for _ in range(10):
        await till.refuse("dead.com", "no more of you")
        await till.refuse("dead.org", "no more of you")
    await till.take("dead.com")


@pytest.mark.parametrize(("asked", "closed_for"), [(None, 300.0), (HOUR, 300.0), (20.0, 20.0)])
async def test_unknown_words_to_three_names_in_a_row_rest_the_account(
    till: Till, clock: ManualClock, asked: float | None, closed_for: float
) -> None:
    for name in ("a.com", "b.com", "c.com"):
        await till.refuse(name, "no more of you", asked)
    for kind in OrderKind:
        with pytest.raises(BudgetSpent, match="orders of this account: the CA takes none") as refusal:
            await till.take("d.com", kind=kind)
        assert refusal.value.everyone
        assert refusal.value.retry_after == pytest.approx(closed_for)
    await clock.advance(closed_for)
    await till.take("d.com")
    await till.refuse("d.com", "no more of you", asked)
    await till.take("e.com")


@pytest.mark.parametrize(("asked", "closed_for"), [(None, 300.0), (20.0, 20.0), (600.0, 600.0), (DAY, HOUR)])
async def test_a_429_that_is_not_the_cas_own_rests_the_account_at_once(
    till: Till, clock: ManualClock, asked: float | None, closed_for: float
) -> None:
    html = CaProblem("HTTP 429: about:blank: <html>", type="about:blank", status=429, retry_after=asked)
    await till.budget.refused(ACCOUNT, till.limits, ["a.com"], html)
    with pytest.raises(BudgetSpent, match="orders of this account: the CA takes none") as refusal:
        await till.take("b.com")
    assert refusal.value.retry_after == pytest.approx(closed_for)
    await clock.advance(closed_for)
    await till.take("b.com")


async def test_a_success_in_between_clears_the_account(till: Till) -> None:
    for name in ("a.com", "b.com"):
        await till.refuse(name, "no more of you")
    till.budget.succeeded(ACCOUNT)
    for name in ("c.com", "d.com"):
        await till.refuse(name, "no more of you")
    await till.take("e.com")


async def test_other_problems_close_nothing(till: Till, storage: FaultyStorage) -> None:
    for _ in range(3):
        problem = CaProblem("too many new orders", type="serverInternal", status=500, retry_after=60.0)
        await till.budget.refused(ACCOUNT, LETS_ENCRYPT, ["a.com"], problem)
    assert stored(storage) == []


async def test_the_account_can_be_closed_whole(till: Till, clock: ManualClock) -> None:
    await till.budget.close(ACCOUNT, LETS_ENCRYPT, Scope(LimitKind.ACCOUNT), 90.0)
    with pytest.raises(BudgetSpent) as refusal:
        await till.take("a.com", kind=ARI)
    assert refusal.value.retry_after == 90.0
    await till.budget.close(ACCOUNT, LETS_ENCRYPT, Scope(LimitKind.ACCOUNT), 10.0)
    await clock.advance(50)
    with pytest.raises(BudgetSpent):
        await till.take("a.com", kind=ARI)


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"7",
        b"{}",
        b'{"full_at": 0, "closed_until": 0}',
        b'{"full_at": null, "closed_until": 0, "overtaken_at": 0, "failing": 0}',
        b'{"full_at": "x", "closed_until": 0, "overtaken_at": 0, "failing": 0}',
        b'{"full_at": NaN, "closed_until": 0, "overtaken_at": 0, "failing": 0}',
        b'{"full_at": 1e999, "closed_until": 0, "overtaken_at": 0, "failing": 0}',
        b'{"full_at": 1' + b"0" * 400 + b', "closed_until": 0, "overtaken_at": 0, "failing": 0}',
        b"[" * 100_000,
        b'{"full_at": 5e12, "closed_until": 0, "overtaken_at": 0, "failing": 0}',
        b'{"full_at": 0, "closed_until": 5e12, "overtaken_at": 0, "failing": 0}',
    ],
)
async def test_a_bucket_that_makes_no_sense_is_empty_from_now_on(
    till: Till, storage: FaultyStorage, clock: ManualClock, garbage: bytes
) -> None:
    await till.take("a.com", kind=RENEWAL)
    (key,) = stored(storage)
    await storage.put(key, garbage)
    with capture_logs() as logs, pytest.raises(BudgetSpent) as refusal:
        await till.take("a.com", kind=RENEWAL)
    assert [entry["event"] for entry in logs] in (["budget.unreadable"], ["budget.implausible"])
    assert refusal.value.retry_after == pytest.approx(WEEK / 5)
    await till.take("b.com", kind=RENEWAL)
    await clock.advance(refusal.value.retry_after)
    await till.take("a.com", kind=RENEWAL)


@pytest.mark.parametrize("ahead", [2 * HOUR, 2 * DAY, WEEK - HOUR])
@pytest.mark.parametrize("scope", [Scope(LimitKind.ACCOUNT), Scope(LimitKind.NEW_ORDERS)], ids=str)
async def test_a_closure_by_a_clock_that_was_ahead_ends_when_the_clock_is_right(
    till: Till, clock: ManualClock, scope: Scope, ahead: float
) -> None:
    clock.jump(ahead)
    await till.budget.close(ACCOUNT, LETS_ENCRYPT, scope, 600.0)
    clock.jump(-ahead)
    with suppress(BudgetSpent):
        await till.take("a.com")
    await clock.advance(36)
    await till.take("a.com")


async def test_a_closure_lasts_where_the_clock_goes_back_by_seconds(till: Till, clock: ManualClock) -> None:
    await till.budget.close(ACCOUNT, LETS_ENCRYPT, Scope(LimitKind.ACCOUNT), 600.0)
    clock.jump(-30)
    with pytest.raises(BudgetSpent):
        await till.take("a.com")


async def test_a_closure_that_makes_no_sense_is_forgotten_where_no_limit_is_known(
    till: Till, storage: FaultyStorage
) -> None:
    await till.refuse("a.com", "too many new orders")
    (key,) = stored(storage)
    await storage.put(key, b'{"full_at": 0, "closed_until": 5e12, "overtaken_at": 0, "failing": 0}')
    till.limits = NO_LIMITS
    await till.take("a.com")


async def test_a_clock_that_ran_ahead_for_a_while_costs_one_interval(till: Till, clock: ManualClock) -> None:
    clock.jump(30 * DAY)
    await till.take("a.com", kind=RENEWAL)
    clock.jump(-30 * DAY)
    number, spent = await till.drain("a.com", RENEWAL)
    assert number == 0
    await clock.advance(spent.retry_after)
    await till.take("a.com", kind=RENEWAL)


async def test_clocks_that_differ_a_little_are_no_matter(till: Till, clock: ManualClock) -> None:
    till.limits = CaLimits(None, None, Limit(5, HOUR), None)
    clock.jump(50)
    await till.drain("a.com", RENEWAL)
    clock.jump(-50)
    with capture_logs() as logs, pytest.raises(BudgetSpent) as refusal:
        await till.take("a.com", kind=RENEWAL)
    assert logs == []
    assert refusal.value.retry_after == pytest.approx(HOUR / 5 + 50)


@pytest.mark.parametrize("lower", [Limit(10, WEEK), Limit(50, HOUR)])
async def test_a_limit_changed_in_the_configuration_finds_its_bucket_as_empty_as_it_was(
    till: Till, clock: ManualClock, lower: Limit
) -> None:
    await till.drain("s{}.a.com")
    till.limits = CaLimits(None, lower, None, None)
    number, spent = await till.drain("new{}.a.com")
    assert number == 0
    assert spent.retry_after == pytest.approx(lower.interval)
    await clock.advance(spent.retry_after)
    await till.take("new.a.com")


async def test_storage_that_fails_is_told_and_nothing_is_had_for_free(till: Till, storage: FaultyStorage) -> None:
    storage.break_down("put", times=1)
    with pytest.raises(StorageError):
        await till.take("a.com")
    storage.break_down("get", times=1)
    with pytest.raises(StorageError):
        await till.take("a.com")
    assert (await till.drain("a.com"))[0] == 5


async def test_a_lease_that_is_lost_lets_nothing_be_written(till: Till, storage: FaultyStorage) -> None:
    def steal(operation: str, key: str) -> bool:
        if operation == "get":
            storage.steal(next(iter(storage._leases)))
        return False

    storage.broken = steal
    with pytest.raises(StorageError):
        await till.take("a.com")
    assert stored(storage) == []


async def test_instances_that_never_let_go_end_the_wait(
    till: Till, storage: FaultyStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssl_cert_server.service.budget.store._LEASE_DEADLINE", 0.01)
    await till.take("a.com", kind=RENEWAL)
    monkeypatch.setattr(storage, "acquire", never)
    with pytest.raises(Overloaded, match=r"other instances held its budget"):
        await till.take("a.com", kind=RENEWAL)


async def never(name: str, seconds: float) -> None:
    """Somebody holds every lease."""


async def test_a_cancelled_take_leaves_the_budget_free_for_others(
    till: Till, storage: FaultyStorage, clock: ManualClock
) -> None:
    for turns in range(15):
        task = asyncio.create_task(till.take(f"a{turns}.example-{turns}.com"))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await till.take(f"b{turns}.example-{turns}.com")
    assert storage._leases == {}


async def test_labels_and_names_of_any_kind_become_keys(till: Till, storage: FaultyStorage) -> None:
    labels = [ACCOUNT, "on_demand", "", "../..", "Ünï cödé\n", "x" * 5000, "a/b", "a b"]
    names = ["*.example.com", "192.0.2.1", "2001:db8::1", ".".join(["a" * 63] * 3 + ["b" * 57, "com"])]
    for label in labels:
        await till.budget.take(label, LETS_ENCRYPT, names, NEW, Priority.EXPIRING)
        for name in names:
            await till.budget.take(label, LETS_ENCRYPT, [name], NEW, Priority.EXPIRING)
            await till.budget.authorization_failed(label, LETS_ENCRYPT, name)
    # one for new orders, and of each: a registered domain (two share one in no case), a name, its failures; the set
    folders = {key.split("/")[1] for key in stored(storage)}
    assert len(folders) == len(labels)
    assert len(stored(storage)) == len(labels) * (1 + 3 * len(names) + 1)
    fields = {"full_at", "closed_until", "overtaken_at", "failing", "closed_at"}
    assert all(set(json.loads(value)) == fields for value in storage._values.values())


async def test_a_sweep_forgets_what_has_been_full_for_days_and_nothing_else(
    till: Till, storage: FaultyStorage, clock: ManualClock
) -> None:
    for number in range(250):
        await till.take(f"s{number}.example-{number}.com", kind=RENEWAL)
    for number in range(5):
        await till.take("often.com", kind=RENEWAL)
        await till.budget.authorization_failed(ACCOUNT, LETS_ENCRYPT, f"dead{number}.com")
    await till.refuse("a.com", 'too many certificates already issued for "a.com"', 5 * DAY)
    await till.budget.take("another", LETS_ENCRYPT, ["a.com"], RENEWAL, Priority.RENEWAL)
    assert await till.budget.sweep(ACCOUNT, LETS_ENCRYPT) == 0
    await clock.advance(2 * DAY + HOUR)
    assert await till.budget.sweep(ACCOUNT, LETS_ENCRYPT) == 5
    await clock.advance(2 * DAY)
    assert await till.budget.sweep(ACCOUNT, LETS_ENCRYPT) == 250
    assert len(stored(storage)) == 3
    await clock.advance(10 * DAY)
    assert await till.budget.sweep(ACCOUNT, LETS_ENCRYPT) == 2
    (left,) = stored(storage)
    assert "another" in left


async def test_a_sweep_puts_right_what_makes_no_sense(till: Till, storage: FaultyStorage, clock: ManualClock) -> None:
    for name in ("a.com", "b.com"):
        await till.take(name, kind=RENEWAL)
    first, second = stored(storage)
    await storage.put(first, b"garbage")
    await storage.put(second, b'{"full_at": 5e12, "closed_until": 0, "overtaken_at": 0, "failing": 0}')
    assert await till.budget.sweep(ACCOUNT, LETS_ENCRYPT) == 0
    await clock.advance(WEEK + 2 * DAY)
    assert await till.budget.sweep(ACCOUNT, LETS_ENCRYPT) == 2
    assert stored(storage) == []


async def test_a_sweep_passes_over_what_can_not_be_read(till: Till, storage: FaultyStorage, clock: ManualClock) -> None:
    for number in range(250):
        await till.take(f"s{number}.example-{number}.com", kind=RENEWAL)
    bad = stored(storage)[7]
    storage.break_down("get", key=bad)
    await clock.advance(WEEK + 2 * DAY)
    await till.budget.sweep(ACCOUNT, LETS_ENCRYPT)
    assert stored(storage) == [bad]
