"""From a configuration to what issues by ACME: the CAs, the challenges, the budget."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

from ssl_cert_server.acme.accounts import ExternalAccount
from ssl_cert_server.acme.authorize import ChallengeSolver
from ssl_cert_server.acme.client import AcmeClient
from ssl_cert_server.acme.transport import open_http_client
from ssl_cert_server.challenges.choice import Challenges
from ssl_cert_server.challenges.dns01.providers.registry import make_provider
from ssl_cert_server.challenges.dns01.solver import Dns01
from ssl_cert_server.challenges.dns01.zones import ZoneProvider
from ssl_cert_server.challenges.http01 import Http01Responder
from ssl_cert_server.challenges.tlsalpn01 import TlsAlpn01Responder
from ssl_cert_server.clock import Clock
from ssl_cert_server.config.authorities import Acme
from ssl_cert_server.config.schema import Config
from ssl_cert_server.dns.resolver import Resolver
from ssl_cert_server.issuers.account import AcmeAccount
from ssl_cert_server.issuers.acme import AcmeCa, CaSettings
from ssl_cert_server.service.attempts import ISSUANCE_DEADLINE, Attempts
from ssl_cert_server.service.authorities import Authorities
from ssl_cert_server.service.budget.limits import CaLimits, Limit
from ssl_cert_server.service.budget.planner import Budget
from ssl_cert_server.service.ca_health import CaHealth
from ssl_cert_server.service.name_states import NameStates
from ssl_cert_server.service.orders import Authority, Orders
from ssl_cert_server.service.preflight import Preflight
from ssl_cert_server.storage.base import Storage
from ssl_cert_server.storage.leasing import LEASE_SECONDS

_HOUR = 3600.0
_LAPSED = LEASE_SECONDS + 5.0


@dataclass(frozen=True, slots=True)
class Engine:
    """What issues, what answers challenges, and the work both have in the background. ``cas`` are by directory URL."""

    states: NameStates
    attempts: Attempts
    cas: Mapping[str, AcmeCa]
    http01: Http01Responder
    tls_alpn01: TlsAlpn01Responder | None
    background: Mapping[str, Callable[[], Awaitable[None]]]
    check_budget: Callable[[], Awaitable[None]]


async def open_engine(config: Config, storage: Storage, clock: Clock, stack: AsyncExitStack) -> Engine:
    """Build it; what has to be closed again goes to ``stack``.

    :raises StartError: a CA bundle or a secret's file can't be read, or an external account's key is none.
    """
    http01 = Http01Responder(storage, clock)
    resolver = Resolver(clock, nameservers=config.dns.resolvers)
    dns01 = _dns01(config, storage, clock, resolver)
    tls_alpn01 = TlsAlpn01Responder(storage, clock) if config.challenges.tls_alpn01.enable else None
    direct: list[ChallengeSolver] = [http01] if config.challenges.http01 else []
    if tls_alpn01 is not None:
        direct.append(tls_alpn01)
    cas = [await _open_ca(ca, storage, clock, stack) for ca in config.cas]
    budget = Budget(storage, clock)
    preflight = Preflight(resolver, public_ips=config.preflight.public_ips, caa=config.preflight.caa)
    patience = ISSUANCE_DEADLINE
    if dns01 is not None:
        patience += config.challenges.dns01.propagation_timeout
    authorities = Authorities(
        [Authority(ca, _ca_limits(settings), CaHealth(clock)) for ca, settings in zip(cas, config.cas, strict=True)],
        Orders(Challenges(direct=direct, dns01=dns01), preflight, budget, clock),
        budget,
        clock,
        on_demand=CaLimits(
            new_orders=_limit(config.on_demand.issuances),
            per_registered_domain=_limit(config.on_demand.issuances_per_domain),
            per_exact_set=None,
            failed_authorizations=None,
        ),
        patience=patience,
    )
    states = NameStates(storage, clock)
    stack.push_async_callback(states.close)
    background = {
        "state.held": states.run,
        "http01.left_over": http01.remove_left_over,
        "budget.sweep": authorities.sweep,
    }
    if tls_alpn01 is not None:
        background["tls_alpn01.left_over"] = tls_alpn01.remove_left_over
    if dns01 is not None:
        stack.push_async_callback(dns01.close)
        background["dns01.left_over"] = lambda: _sweep(dns01, clock)
    return Engine(
        states,
        Attempts(storage, states, authorities, clock, deadline=patience * (len(cas) + 1)),
        {ca.directory_url: ca for ca in cas},
        http01,
        tls_alpn01,
        background,
        budget.check_readable,
    )


async def _open_ca(settings: Acme, storage: Storage, clock: Clock, stack: AsyncExitStack) -> AcmeCa:
    account, client = await open_account(settings, storage, clock, stack)
    return AcmeCa(
        account,
        client,
        clock,
        CaSettings(
            settings.directory_url,
            {kind.family: kind for kind in settings.key_types},
            profile=settings.profile,
            preferred_chain=settings.preferred_chain,
        ),
    )


async def open_account(
    settings: Acme, storage: Storage, clock: Clock, stack: AsyncExitStack
) -> tuple[AcmeAccount, AcmeClient]:
    """Make the account at one CA, and the client it works through; nothing is asked of the CA yet.

    :raises StartError: its bundle can't be read, or the external account's key is none.
    """
    http = await stack.enter_async_context(open_http_client(settings.ca_bundle))
    client = AcmeClient(settings.directory_url, http, clock)
    url, eab = settings.directory_url, settings.eab
    external = ExternalAccount(eab.kid, eab.secret.get_secret_value()) if eab else None
    account = AcmeAccount(storage, client, clock, directory_url=url, email=settings.email, external=external)
    return account, client


def _dns01(config: Config, storage: Storage, clock: Clock, resolver: Resolver) -> Dns01 | None:
    settings = config.challenges.dns01
    if not settings.enabled:
        return None
    zones = [
        ZoneProvider(zone.zone, make_provider(zone.provider, zone.plain_options, resolver.zone), zone.nameservers)
        for zone in settings.zones
    ]
    if settings.provider is not None:
        provider = make_provider(settings.provider, settings.plain_options, resolver.zone)
        zones.append(ZoneProvider("", provider, settings.nameservers))
    return Dns01(storage, clock, resolver, zones, propagation_timeout=settings.propagation_timeout)


async def _sweep(dns01: Dns01, clock: Clock) -> None:
    """Remove what was left over now, and every hour."""
    while True:
        if await dns01.remove_left_over():
            # The leases of an instance that was killed a moment ago, as this one before its restart, have to lapse.
            await clock.sleep(_LAPSED)
            await dns01.remove_left_over()
        await clock.sleep(_HOUR * (1 + clock.random() / 10))


def _ca_limits(settings: Acme) -> CaLimits:
    limits = settings.limits
    return CaLimits(
        new_orders=_limit(limits.new_orders),
        per_registered_domain=_limit(limits.per_registered_domain),
        per_exact_set=_limit(limits.per_exact_set),
        failed_authorizations=_limit(limits.failed_authorizations),
    )


def _limit(pair: tuple[int, int] | None) -> Limit | None:
    return Limit(*pair) if pair else None
