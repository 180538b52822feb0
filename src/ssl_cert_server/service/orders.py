"""Ordering at one CA: within its budget, by challenges that can work, by the next type where one fails."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from http import HTTPStatus

import structlog

from ssl_cert_server.acme.ari import ari_id
from ssl_cert_server.acme.authorize import ChallengeChoice
from ssl_cert_server.challenges.choice import Challenges
from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import (
    AcmeError,
    BudgetSpent,
    CaProblem,
    LeaseLost,
    NotPresented,
    OrderFailed,
    Overloaded,
    StorageError,
    ValidationFailed,
)
from ssl_cert_server.issuers.acme import AcmeCa, CaTerms
from ssl_cert_server.model import Certificate
from ssl_cert_server.service.attempts import Issued, Wanted
from ssl_cert_server.service.budget.bookkeeping import is_stored
from ssl_cert_server.service.budget.limits import CaLimits
from ssl_cert_server.service.budget.planner import Budget, OrderKind, Taken
from ssl_cert_server.service.ca_health import CaHealth, is_trouble
from ssl_cert_server.service.open_orders import OpenOrders
from ssl_cert_server.service.preflight import Preflight

_log = structlog.get_logger()

Methods = dict[str, tuple[str, ...]]
"""For each name that is ordered, the challenge types to try, best first."""


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA with the limits to stay within, its state of health, and the entrance that is passed one by one."""

    ca: AcmeCa
    limits: CaLimits
    health: CaHealth
    entrance: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def account(self) -> str | None:
        """Give the account in the budget's words, where there is one."""
        account_url = await self.ca.account_url()
        return None if account_url is None else _account(self, account_url)


class Orders:
    """Places orders, or goes on with one."""

    def __init__(self, challenges: Challenges, preflight: Preflight, budget: Budget, clock: Clock) -> None:
        self._challenges = challenges
        self._preflight = preflight
        self._budget = budget
        self._clock = clock

    async def fill(self, authority: Authority, terms: CaTerms, wanted: Wanted, orders: OpenOrders) -> Issued:
        """Get a certificate, by the open order at this CA where there is one that is still of use.

        :raises AcmeError: the CA refused, or could not be reached.
        :raises BudgetSpent: its limits leave no room now.
        """
        account, names = _account(authority, terms.account_url), wanted.subject.names
        methods = await self._methods(wanted, terms)
        resumable = orders.at(authority.ca.directory_url)
        used: dict[str, str] = {}
        failed: ValidationFailed | None = None
        while True:
            try:
                certificate = None
                if resumable is not None:
                    choice = self._challenges.among(methods, used)
                    certificate = await authority.ca.resume(names, choice, resumable)
                if certificate is None:
                    orders.forget(authority.ca.directory_url)
                    choice = self._challenges.among(methods, used)
                    certificate = await self._order(authority, account, wanted, choice, orders)
                # Nothing was presented where the CA knew the names well enough.
                return Issued(certificate, authority.ca.directory_url, used.get(names[0], ""))
            except ValidationFailed as error:
                # Whatever the reason, CAs count it.
                counted = self._budget.authorization_failed(account, authority.limits, error.name)
                if not await is_stored(counted, names[0]) or error.of_this_ca:
                    raise
                methods = _without(methods, error)
                resumable, failed = None, error
            except NotPresented as error:
                methods = _without(methods, error)
                # All is presented before anything is answered: the order is as good as it was.
                resumable = orders.at(authority.ca.directory_url)
            except BudgetSpent:
                if failed is None:
                    raise
                # There is no room to try the next type now. The name failed, and is left alone as one that did.
                raise failed from None
            except LeaseLost:
                raise
            except (StorageError, Overloaded):
                if failed is None or orders.at(authority.ca.directory_url) is not None:
                    raise
                raise failed from None  # as above: no order was placed for the next type
            except CaProblem as error:
                await is_stored(self._budget.refused(account, authority.limits, names, error), names[0])
                raise

    async def _order(
        self,
        authority: Authority,
        account: str,
        wanted: Wanted,
        choice: ChallengeChoice,
        orders: OpenOrders,
    ) -> Certificate:
        names = wanted.subject.names
        replaces, kind = self._renewal(authority, wanted)
        taken = await self._budget.take(account, authority.limits, names, kind, wanted.priority)
        begun, placed = orders.begun, orders.placed
        try:
            certificate = await authority.ca.issue(
                names,
                wanted.subject.family,
                choice,
                replaces=replaces,
                before_order=orders.begin,
                before_send=orders.check,
                on_order=orders.keep,
            )
        except AcmeError as error:
            await is_stored(self._settle(taken, error, placed=orders.placed > placed), names[0])
            raise
        except StorageError:
            if orders.begun == begun:
                await self._budget.give_back(taken)
            raise
        self._budget.succeeded(account)
        return certificate

    async def _settle(self, taken: Taken, error: AcmeError, *, placed: bool) -> None:
        """Put back what a failed order did not cost: a CA's bad hour must not use up a week's certificates."""
        if placed and not isinstance(error, OrderFailed):
            return  # a certificate may come of it yet, or was issued already
        # Of an order whose answer was lost nobody knows, so it counts as one; a refusal is an answer.
        refused = isinstance(error, CaProblem) and error.status < HTTPStatus.INTERNAL_SERVER_ERROR
        if placed or (is_trouble(error) and not refused):
            await self._budget.order_failed(taken)
        else:
            await self._budget.give_back(taken)

    def _renewal(self, authority: Authority, wanted: Wanted) -> tuple[str | None, OrderKind]:
        """Tell what the order replaces, and as what the CA's limits count it: a renewal only where it issued before."""
        predecessor = wanted.predecessor
        # Of a certificate from before this server's time nobody knows the issuer: the one we have is as good a guess
        # as any, and a CA that disagrees says so.
        if predecessor is None or predecessor.record.directory_url not in ("", authority.ca.directory_url):
            return None, OrderKind.NEW
        same = predecessor.certificate.names == frozenset(wanted.subject.names)
        kind = OrderKind.RENEWAL if same else OrderKind.NEW
        if not predecessor.record.directory_url or self._clock.now() >= predecessor.certificate.not_after:
            return None, kind
        replaces = ari_id(predecessor.certificate.chain_pem)
        if replaces is not None and predecessor.record.window_holds(self._clock.now()):
            return replaces, OrderKind.ARI
        return replaces, kind

    async def _methods(self, wanted: Wanted, terms: CaTerms) -> Methods:
        """Settle the challenge types: what the name and the configuration allow, less what is bound to fail."""
        known = wanted.predecessor.record.challenge if wanted.predecessor else ""
        methods: Methods = {}
        for name in wanted.subject.names:
            # What worked for the certificate before goes first.
            types = await self._challenges.possible(name)
            methods[name] = tuple(sorted(types, key=lambda kind: kind != known))
        return dict(
            await self._preflight.check(
                wanted.subject.names, methods, caa_identities=terms.caa_identities, account_url=terms.account_url
            )
        )


def _account(authority: Authority, account_url: str) -> str:
    return f"{authority.ca.directory_url} {account_url}"


def _without(methods: Methods, error: ValidationFailed | NotPresented) -> Methods:
    """Go on without the challenge type that failed.

    :raises ValidationFailed, NotPresented: no other one is left for the name, or none that was tried here failed.
    """
    tried = methods.get(error.name, ())
    left = tuple(kind for kind in tried if kind != error.challenge)
    if not left or left == tried:
        raise error
    _log.warning("authority.other_challenge", name=error.name, failed=error.challenge, next=left[0], reason=str(error))
    return {**methods, error.name: left}
