"""Ordering at one CA: within its budget, by challenges that can work, by the next type where one fails."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from ssl_cert_server.acme.ari import ari_id
from ssl_cert_server.challenges.choice import Challenges
from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import CaProblem, OrderFailed, PreflightFailed, ValidationFailed
from ssl_cert_server.issuers.acme import AcmeCa, CaTerms, KeepOrder
from ssl_cert_server.model import Certificate, OpenOrder
from ssl_cert_server.service.attempts import Issued, Wanted
from ssl_cert_server.service.budget.limits import CaLimits
from ssl_cert_server.service.budget.planner import Budget, OrderKind
from ssl_cert_server.service.ca_health import CaHealth
from ssl_cert_server.service.preflight import Preflight

_log = structlog.get_logger()

Methods = dict[str, tuple[str, ...]]
"""For each name that is ordered, the challenge types to try, best first."""


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA with the limits to stay within and its state of health."""

    ca: AcmeCa
    limits: CaLimits
    health: CaHealth

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

    async def fill(self, authority: Authority, wanted: Wanted, order: OpenOrder | None, on_order: KeepOrder) -> Issued:
        """Get a certificate, by ``order`` where it is this CA's and still of use.

        :raises AcmeError: the CA refused, or could not be reached.
        :raises BudgetSpent: its limits leave no room now.
        """
        # It has to be reached before its budget is touched: an outage must not use that up.
        terms = await authority.ca.terms()
        methods = await self._methods(wanted, terms)
        resumable = order if order and order.directory_url == authority.ca.directory_url else None
        used: dict[str, str] = {}
        while True:
            try:
                certificate = None
                if resumable is not None:
                    choice = self._challenges.among(methods, used)
                    certificate = await authority.ca.resume(wanted.subject.names, choice, resumable)
                if certificate is None:
                    certificate = await self._order(authority, terms, wanted, methods, used, on_order)
                # Nothing was presented where the CA knew the names well enough.
                proven = used.get(wanted.subject.names[0], "")
                return Issued(certificate, authority.ca.directory_url, proven)
            except ValidationFailed as error:
                account = _account(authority, terms.account_url)
                await self._budget.authorization_failed(account, authority.limits, error.name)
                methods = _without(methods, error)
                resumable = None

    async def _order(
        self,
        authority: Authority,
        terms: CaTerms,
        wanted: Wanted,
        methods: Methods,
        used: dict[str, str],
        on_order: KeepOrder,
    ) -> Certificate:
        account, names = _account(authority, terms.account_url), wanted.subject.names
        replaces, kind = self._renewal(authority, wanted)
        taken = await self._budget.take(account, authority.limits, names, kind, wanted.priority)
        choice = self._challenges.among(methods, used)
        try:
            certificate = await authority.ca.issue(
                names, wanted.subject.family, choice, replaces=replaces, on_order=on_order
            )
        except OrderFailed:
            await self._budget.order_failed(taken)
            raise
        except CaProblem as error:
            await self._budget.refused(account, authority.limits, names, error)
            raise
        self._budget.succeeded(account)
        return certificate

    def _renewal(self, authority: Authority, wanted: Wanted) -> tuple[str | None, OrderKind]:
        """Tell what the order replaces, and as what the CA's limits count it: a renewal only where it issued before."""
        predecessor = wanted.predecessor
        if predecessor is None or predecessor.record.directory_url != authority.ca.directory_url:
            return None, OrderKind.NEW
        replaces = ari_id(predecessor.certificate.chain_pem)
        if replaces is not None and predecessor.record.window_holds(self._clock.now()):
            return replaces, OrderKind.ARI
        same = predecessor.certificate.names == frozenset(wanted.subject.names)
        return replaces, OrderKind.RENEWAL if same else OrderKind.NEW

    async def _methods(self, wanted: Wanted, terms: CaTerms) -> Methods:
        """Settle the challenge types: what the name and the configuration allow, less what is bound to fail."""
        known = wanted.predecessor.record.challenge if wanted.predecessor else ""
        methods: Methods = {}
        for name in wanted.subject.names:
            # What worked for the certificate before goes first.
            methods[name] = tuple(sorted(self._challenges.types(name), key=lambda kind: kind != known))
            if not methods[name]:
                raise PreflightFailed(
                    f"{name}: no challenge is configured that can prove control of it; "
                    + ("wildcards need challenges.dns01" if name.startswith("*.") else "see challenges")
                )
        return dict(
            await self._preflight.check(
                wanted.subject.names, methods, caa_identities=terms.caa_identities, account_url=terms.account_url
            )
        )


def _account(authority: Authority, account_url: str) -> str:
    return f"{authority.ca.directory_url} {account_url}"


def _without(methods: Methods, error: ValidationFailed) -> Methods:
    """Go on without the challenge type that failed.

    :raises ValidationFailed: no other one is left for the name.
    """
    left = tuple(kind for kind in methods.get(error.name, ()) if kind != error.challenge)
    if not left:
        raise error
    _log.warning("authority.other_challenge", name=error.name, failed=error.challenge, next=left[0], reason=str(error))
    return {**methods, error.name: left}
