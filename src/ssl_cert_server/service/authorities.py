"""The CAs in order: each asked only where its health and its budget allow, the next one where it can't help."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import (
    AcmeError,
    BudgetSpent,
    CaClosed,
    CaProblem,
    CertServerError,
    ChallengeFailed,
    OrderFailed,
    ValidationFailed,
)
from ssl_cert_server.issuers.acme import KeepOrder
from ssl_cert_server.model import OpenOrder, Subject
from ssl_cert_server.service.attempts import Issued, Wanted
from ssl_cert_server.service.budget.limits import CaLimits
from ssl_cert_server.service.budget.planner import Budget, OrderKind, Taken
from ssl_cert_server.service.ca_health import is_trouble
from ssl_cert_server.service.orders import Authority, Orders

_log = structlog.get_logger()

_DAY = 86_400.0
_ON_DEMAND = "on_demand"
"""The account, in the budget's words, of our own limits on what strangers bring up."""


class Authorities:
    """Issues from the first CA that can."""

    def __init__(
        self, authorities: Sequence[Authority], orders: Orders, budget: Budget, clock: Clock, *, on_demand: CaLimits
    ) -> None:
        """``on_demand`` limits what is issued for names that strangers bring up, whatever the CA allows."""
        self._authorities = authorities
        self._orders = orders
        self._budget = budget
        self._clock = clock
        self._on_demand = on_demand

    async def issue(self, wanted: Wanted, order: OpenOrder | None, on_order: KeepOrder) -> Issued:
        """See :class:`ssl_cert_server.service.attempts.CertificateAuthority`."""
        if all(authority.health.closed_for for authority in self._authorities):
            raise self._verdict(wanted.subject, [])
        own = await self._take_own(wanted) if order is None else None
        placed = False

        async def keep(new: OpenOrder) -> None:
            nonlocal placed
            placed = True
            await on_order(new)

        try:
            return await self._first_that_can(wanted, order, keep)
        finally:
            if own is not None and not placed:
                await self._budget.give_back(own)

    async def sweep(self) -> None:
        """Once a day, forget what the budget kept of limits that are full again."""
        while True:
            for authority in self._authorities:
                account = await authority.account()
                if account is not None:
                    await self._budget.sweep(account, authority.limits)
            await self._budget.sweep(_ON_DEMAND, self._on_demand)
            await self._clock.sleep(_DAY * (1 + self._clock.random() / 10))

    async def _take_own(self, wanted: Wanted) -> Taken | None:
        """Take what a name costs of our own limits on what strangers bring up."""
        if not wanted.subject.on_demand or wanted.predecessor is not None:
            return None
        return await self._budget.take(
            _ON_DEMAND, self._on_demand, wanted.subject.names, OrderKind.NEW, wanted.priority
        )

    async def _first_that_can(self, wanted: Wanted, order: OpenOrder | None, on_order: KeepOrder) -> Issued:
        failures: list[CertServerError] = []
        for authority in self._in_order(order):
            if authority.health.closed_for:
                continue
            try:
                return await self._issue_at(authority, wanted, order, on_order)
            except (ValidationFailed, ChallengeFailed):
                raise  # it would go the same way at the next CA
            except (AcmeError, BudgetSpent) as error:
                failures.append(error)
                _log.warning("authority.failed", directory_url=authority.ca.directory_url, reason=str(error))
        raise self._verdict(wanted.subject, failures)

    def _in_order(self, order: OpenOrder | None) -> list[Authority]:
        """Put the CA first that has an open order."""
        url = order.directory_url if order else None
        return sorted(self._authorities, key=lambda authority: authority.ca.directory_url != url)

    async def _issue_at(
        self, authority: Authority, wanted: Wanted, order: OpenOrder | None, on_order: KeepOrder
    ) -> Issued:
        try:
            issued = await self._orders.fill(authority, wanted, order, on_order)
        except AcmeError as error:
            if is_trouble(error):
                authority.health.failed(error)
            elif isinstance(error, CaProblem | OrderFailed):
                authority.health.worked()
            raise
        authority.health.worked()
        return issued

    def _verdict(self, subject: Subject, failures: Sequence[CertServerError]) -> CertServerError:
        """Sum up why no CA helped."""
        if not failures:
            wait = min(authority.health.closed_for for authority in self._authorities)
            return CaClosed(f"{subject.names[0]}: every CA failed lately and is left alone for a while", wait)
        budgets = [error for error in failures if isinstance(error, BudgetSpent)]
        if len(failures) == 1 or not budgets:
            return failures[0] if len(failures) == 1 else _joined(failures)
        return min(budgets, key=lambda error: error.retry_after)


def _joined(failures: Sequence[CertServerError]) -> AcmeError:
    waits = [error.retry_after for error in failures if isinstance(error, AcmeError) and error.retry_after is not None]
    return AcmeError("; ".join(str(error) for error in failures), retry_after=min(waits, default=None))
