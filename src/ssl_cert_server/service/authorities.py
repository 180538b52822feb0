"""The CAs in order: each asked only where its health and its budget allow, the next one where it can't help."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus

import structlog

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import (
    AcmeError,
    BudgetSpent,
    CaClosed,
    CaProblem,
    CaTooSlow,
    CaUnreachable,
    CertServerError,
    ChallengeFailed,
    OrderFailed,
    ValidationFailed,
)
from ssl_cert_server.issuers.acme import CaTerms
from ssl_cert_server.model import Subject
from ssl_cert_server.service.attempts import Issued, Wanted
from ssl_cert_server.service.budget.bookkeeping import is_stored
from ssl_cert_server.service.budget.limits import CaLimits
from ssl_cert_server.service.budget.planner import Budget, OrderKind, Taken
from ssl_cert_server.service.ca_health import CaHealth, is_trouble, may_be_the_names
from ssl_cert_server.service.open_orders import OpenOrders
from ssl_cert_server.service.orders import Authority, Orders
from ssl_cert_server.storage.passed_over import PassedOver

_log = structlog.get_logger()

_HOUR = 3600.0
_DAY = 86_400.0
_ON_DEMAND = "on_demand"
"""The account, in the budget's words, of our own limits on what strangers bring up."""


class Authorities:
    """Issues from the first CA that can."""

    def __init__(
        self,
        authorities: Sequence[Authority],
        orders: Orders,
        budget: Budget,
        clock: Clock,
        *,
        on_demand: CaLimits,
        patience: float,
    ) -> None:
        """``on_demand`` limits what is issued for names that strangers bring up, whatever the CA allows.

        ``patience`` (seconds) is how long one CA may take, before the next has its turn.
        """
        self._patience = patience
        self._authorities = authorities
        self._orders = orders
        self._budget = budget
        self._clock = clock
        self._on_demand = on_demand

    async def issue(self, wanted: Wanted, orders: OpenOrders) -> Issued:
        """See :class:`ssl_cert_server.service.attempts.CertificateAuthority`."""
        if all(authority.health.closed_for for authority in self._authorities):
            raise self._verdict(wanted.subject, [])
        own = None if orders.all else await self._take_own(wanted)
        try:
            return await self._first_that_can(wanted, orders)
        finally:
            if own is not None and not orders.placed:
                await is_stored(self._budget.give_back(own), wanted.subject.names[0])

    async def sweep(self) -> None:
        """Once a day, forget what the budget kept of limits that are full again; an account's trouble is no other's."""
        while True:
            passed = PassedOver()
            for authority in self._authorities:
                with passed.unreadable():
                    account = await authority.account()
                    if account is not None:
                        await self._budget.sweep(account, authority.limits)
            with passed.unreadable():
                await self._budget.sweep(_ON_DEMAND, self._on_demand)
            passed.tell("_budgets")
            await self._clock.sleep((_HOUR if passed.count else _DAY) * (1 + self._clock.random() / 10))

    async def _take_own(self, wanted: Wanted) -> Taken | None:
        """Take what a name costs of our own limits on what strangers bring up."""
        if not wanted.subject.on_demand or wanted.predecessor is not None:
            return None
        return await self._budget.take(
            _ON_DEMAND, self._on_demand, wanted.subject.names, OrderKind.NEW, wanted.priority
        )

    async def _first_that_can(self, wanted: Wanted, orders: OpenOrders) -> Issued:
        failures: list[CertServerError] = []
        for authority in self._in_order(orders):
            try:
                issued = await self._issue_at(authority, wanted, orders)
            except (AcmeError, BudgetSpent) as error:
                if isinstance(error, OrderFailed):  # a refusal says nothing of what became of it
                    orders.forget(authority.ca.directory_url)
                if _goes_the_same_way_elsewhere(error):
                    raise
                failures.append(error)
                _log.warning("authority.failed", directory_url=authority.ca.directory_url, reason=str(error))
            else:
                if issued is not None:
                    return issued
        raise self._verdict(wanted.subject, failures)

    def _in_order(self, orders: OpenOrders) -> list[Authority]:
        """Put the CAs first that have an open order."""
        return sorted(self._authorities, key=lambda authority: orders.at(authority.ca.directory_url) is None)

    async def _issue_at(self, authority: Authority, wanted: Wanted, orders: OpenOrders) -> Issued | None:
        """Issue there; None where it is closed, or was before our turn came."""
        health, name, probe = authority.health, wanted.subject.names[0], False
        if health.closed_for:
            return None
        try:
            async with self._patiently(authority):
                async with authority.entrance:
                    if health.closed_for:
                        return None
                    probe = health.admit()
                    terms = await _terms(authority, name)
                issued = await self._orders.fill(authority, terms, wanted, orders)
            health.worked()
        except AcmeError as error:
            _judge(health, error, name)
            raise
        finally:
            if probe:
                health.undecided()
        return issued

    @asynccontextmanager
    async def _patiently(self, authority: Authority) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._patience):
                yield
        except TimeoutError as error:
            raise CaTooSlow(f"{authority.ca.directory_url} had not finished after {self._patience:.0f} s") from error

    def _verdict(self, subject: Subject, failures: Sequence[CertServerError]) -> CertServerError:
        """Sum up why no CA helped."""
        if not failures:
            wait = max(1.0, min(authority.health.closed_for for authority in self._authorities))
            return CaClosed(f"{subject.names[0]}: every CA failed lately and is left alone for a while", wait)
        if len(failures) == 1:
            return failures[0]
        refusals = [error for error in failures if isinstance(error, AcmeError)]
        if refusals:
            return _joined(failures, refusals)
        return min((error for error in failures if isinstance(error, BudgetSpent)), key=lambda spent: spent.retry_after)


async def _terms(authority: Authority, name: str) -> CaTerms:
    """Ask for the terms; whoever waits at the entrance meanwhile hears of a failure before it is in."""
    try:
        return await authority.ca.terms()
    except AcmeError as error:
        _judge(authority.health, error, name)
        raise


def _judge(health: CaHealth, error: AcmeError, name: str) -> None:
    """Note what a failure tells of the CA; told twice it is the same."""
    if is_trouble(error):
        health.failed(error, name)
    elif isinstance(error, CaProblem | OrderFailed):
        health.worked()


def _goes_the_same_way_elsewhere(error: CertServerError) -> bool:
    return isinstance(error, ChallengeFailed) or (isinstance(error, ValidationFailed) and not error.of_this_ca)


def _joined(failures: Sequence[CertServerError], refusals: Sequence[AcmeError]) -> AcmeError:
    """Sum up why CAs that were asked refused, beside those that could not be: the name is left alone for it."""
    words = "; ".join(str(error) for error in failures)
    asked = [error.retry_after for error in refusals if error.retry_after is not None]
    retry_after = min(asked) if len(asked) == len(failures) else None  # the others may be asked before
    if not all(map(is_trouble, refusals)):
        return AcmeError(words, retry_after=retry_after)
    if all(map(may_be_the_names, refusals)):
        return CaProblem(words, type="serverInternal", status=HTTPStatus.INTERNAL_SERVER_ERROR, retry_after=retry_after)
    # That all of them are down is no fault of the name's.
    return CaUnreachable(words, retry_after=retry_after)
