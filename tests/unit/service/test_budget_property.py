"""Whatever two instances do, no limit of the CA is overrun: against counters that know nothing of ours."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from ssl_cert_server.errors import BudgetSpent
from ssl_cert_server.service.budget.buckets import Scope
from ssl_cert_server.service.budget.domains import registered_domain
from ssl_cert_server.service.budget.limits import NO_LIMITS, CaLimits, Limit
from ssl_cert_server.service.budget.planner import Budget, OrderKind, Priority, Taken
from ssl_cert_server.storage.memory import MemoryStorage
from tests.support.clock import ManualClock

_T = TypeVar("_T")

ACCOUNT = "account"
NAMES = ["a.one.com", "b.one.com", "192.0.2.1"]

limits = st.none() | st.builds(Limit, st.integers(1, 5), st.sampled_from([10.0, 100.0, 1000.0]))
name_sets = st.sampled_from([["a.one.com"], ["a.one.com"], ["b.one.com", "a.one.com"], ["192.0.2.1", "b.one.com"]])
kinds = st.sampled_from(OrderKind)
priorities = st.sampled_from(Priority)


@dataclass
class Counter:
    """A bucket as one would write it first: a level that rises with time. Going below zero is what must not be."""

    limit: Limit
    now: float
    level: float = field(init=False)

    def __post_init__(self) -> None:
        self.level = float(self.limit.count)

    def at(self, now: float) -> float:
        passed, self.now = now - self.now, now
        self.level = min(self.limit.count, self.level + passed * self.limit.count / self.limit.seconds)
        return self.level

    def take(self, now: float) -> None:
        self.level = self.at(now) - 1
        assert self.level >= -0.001 * self.limit.count / self.limit.seconds - 1e-6, "overdrawn"


class Ca:
    """What a CA counts: orders when they come, certificates when it issues, failures when it finds no proof."""

    def __init__(self, limits: CaLimits) -> None:
        self.limits = limits
        self.counters: dict[tuple[str, str], Counter] = {}

    def count(self, what: str, subject: str, limit: Limit | None, now: float) -> Counter | None:
        if limit is None:
            return None
        return self.counters.setdefault((what, subject), Counter(limit, now))

    def order(self, names: list[str], kind: OrderKind, now: float) -> None:
        for name in names:
            failures = self.count("failures", name, self.limits.failed_authorizations, now)
            assert failures is None or failures.at(now) >= 0.99, "asked for a name that failed too often"
        if kind is OrderKind.NEW and (counter := self.count("orders", "", self.limits.new_orders, now)):
            counter.take(now)

    def issue(self, names: list[str], kind: OrderKind, now: float) -> None:
        exact = self.count("set", ",".join(sorted({*names})), self.limits.per_exact_set, now)
        if exact is not None and (kind is not OrderKind.ARI or exact.at(now) >= 1):
            exact.take(now)
        if kind is OrderKind.NEW:
            for domain in {*map(registered_domain, names)}:
                if counter := self.count("domain", domain, self.limits.per_registered_domain, now):
                    counter.take(now)

    def fail(self, name: str, now: float) -> None:
        counter = self.count("failures", name, self.limits.failed_authorizations, now)
        if counter is not None and counter.at(now) >= 1:
            counter.take(now)


class TwoInstances(RuleBasedStateMachine):
    """Two instances on one storage; what each order comes to is settled when it is placed."""

    clock_is_right = True

    @initialize(orders=limits, domain=limits, exact=limits, failures=limits)
    def open(self, orders: Limit | None, domain: Limit | None, exact: Limit | None, failures: Limit | None) -> None:
        self.clock = ManualClock()
        self.runner = asyncio.Runner()
        storage = MemoryStorage(self.clock)
        self.limits = CaLimits(orders, domain, exact, failures)
        self.budgets = [Budget(storage, self.clock), Budget(storage, self.clock)]
        self.ca = Ca(self.limits if self.clock_is_right else NO_LIMITS)
        self.unplaced: list[Taken] = []
        self.doomed: list[Taken] = []

    def teardown(self) -> None:
        self.runner.close()

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return self.runner.run(work)

    def take(self, instance: int, names: list[str], kind: OrderKind, priority: Priority) -> Taken | BudgetSpent:
        try:
            return self.run(self.budgets[instance].take(ACCOUNT, self.limits, names, kind, priority))
        except BudgetSpent as spent:
            return spent

    @rule(
        instance=st.integers(0, 1),
        names=name_sets,
        kind=kinds,
        priority=priorities,
        fate=st.sampled_from(["issued", "never placed", "failed"]),
        patient=st.booleans(),
    )
    def order(
        self, instance: int, names: list[str], kind: OrderKind, priority: Priority, fate: str, patient: bool
    ) -> None:
        taken = self.take(instance, names, kind, priority)
        if isinstance(taken, BudgetSpent):
            assert taken.retry_after > 0
            if not patient:
                return
            self.run(self.clock.advance(taken.retry_after))
            taken = self.take(instance, names, kind, priority)
            assert isinstance(taken, Taken), f"told to come back after {taken.retry_after} s more"
        if fate == "never placed":
            self.unplaced.append(taken)
            return
        self.ca.order(names, kind, self.clock.now())
        if fate == "failed":
            self.doomed.append(taken)
        else:
            self.ca.issue(names, kind, self.clock.now())

    @rule(names=name_sets, kind=kinds)
    def order_all_there_is(self, names: list[str], kind: OrderKind) -> None:
        for _ in range(10):
            if isinstance(self.take(0, names, kind, Priority.EXPIRING), BudgetSpent):
                return
            self.ca.order(names, kind, self.clock.now())
            self.ca.issue(names, kind, self.clock.now())

    @precondition(lambda self: self.unplaced)
    @rule(instance=st.integers(0, 1), which=st.integers(0, 99))
    def give_back(self, instance: int, which: int) -> None:
        self.run(self.budgets[instance].give_back(self.unplaced.pop(which % len(self.unplaced))))

    @precondition(lambda self: self.doomed)
    @rule(instance=st.integers(0, 1), which=st.integers(0, 99))
    def order_failed(self, instance: int, which: int) -> None:
        self.run(self.budgets[instance].order_failed(self.doomed.pop(which % len(self.doomed))))

    @rule(instance=st.integers(0, 1), name=st.sampled_from(NAMES))
    def authorization_failed(self, instance: int, name: str) -> None:
        self.run(self.budgets[instance].authorization_failed(ACCOUNT, self.limits, name))
        self.ca.fail(name, self.clock.now())

    @rule(instance=st.integers(0, 1), names=name_sets, seconds=st.floats(0, 500))
    def close(self, instance: int, names: list[str], seconds: float) -> None:
        for scope in Scope.domains(names):
            self.run(self.budgets[instance].close(ACCOUNT, self.limits, scope, seconds))

    @rule(seconds=st.floats(0, 1100))
    def time_passes(self, seconds: float) -> None:
        self.run(self.clock.advance(seconds))

    @rule()
    def sweep(self) -> None:
        self.run(self.budgets[0].sweep(ACCOUNT, self.limits))


class TwoInstancesWithBadClocks(TwoInstances):
    """The clock jumps, too: then nothing can be sworn of what the CA counts, but a wait stays bounded and true."""

    clock_is_right = False

    @rule(seconds=st.floats(-1e8, 1e8))
    def jump(self, seconds: float) -> None:
        self.clock.jump(seconds)

    @rule(names=name_sets, kind=kinds)
    def nobody_waits_for_ever(self, names: list[str], kind: OrderKind) -> None:
        outcome = self.take(0, names, kind, Priority.RENEWAL)
        if isinstance(outcome, BudgetSpent):
            # A period, what clocks may differ by, and what was closed before the clock jumped.
            assert outcome.retry_after <= 1000 + 60 + 500 + 604_800 + 60


QUICK = settings(max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=[*HealthCheck])


def test_two_instances_never_overdraw() -> None:
    run_state_machine_as_test(TwoInstances, settings=QUICK)


def test_no_clock_however_wrong_ends_the_issuing() -> None:
    run_state_machine_as_test(TwoInstancesWithBadClocks, settings=QUICK)
