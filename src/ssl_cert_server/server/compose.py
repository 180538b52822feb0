"""From a configuration to the objects of a running server: the only place that knows all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import httpx2
from starlette.applications import Starlette

from ssl_cert_server.challenges.tlsalpn01 import TlsAlpn01Responder
from ssl_cert_server.clock import Clock
from ssl_cert_server.config.schema import Config
from ssl_cert_server.http.app import make_app
from ssl_cert_server.http.certs import CertEndpoints
from ssl_cert_server.http.changes import ChangesEndpoint
from ssl_cert_server.http.load import Load
from ssl_cert_server.http.protocol import CertServerProtocol, protocol_class
from ssl_cert_server.issuers.base import Issuer
from ssl_cert_server.issuers.local_ca import LocalCa
from ssl_cert_server.issuers.managed import ManagedCertificates
from ssl_cert_server.issuers.self_signed import SelfSignedIssuer
from ssl_cert_server.ocsp.exchange import open_http_client
from ssl_cert_server.ocsp.responder import Responder
from ssl_cert_server.renewal.advice import AdviceWorker
from ssl_cert_server.renewal.expiry import ExpiryWorker, ManagedExpiries
from ssl_cert_server.renewal.plan import RenewalPlan
from ssl_cert_server.renewal.preload import Preload
from ssl_cert_server.renewal.rebuild import IndexRebuild, SeenCertificates
from ssl_cert_server.renewal.staples import StapleWorker
from ssl_cert_server.renewal.stored import StoredCertificates
from ssl_cert_server.renewal.upkeep import CertificateUpkeep
from ssl_cert_server.renewal.worker import RenewalWorker
from ssl_cert_server.renewal.write_back import WriteBack
from ssl_cert_server.server.descriptors import AMPLE, Bounds
from ssl_cert_server.server.engine import open_engine
from ssl_cert_server.server.storages import open_storages, operators_keys, self_signed_keys
from ssl_cert_server.server.upkeep.kept import Kept
from ssl_cert_server.service.ask import Ask
from ssl_cert_server.service.cache import AnswerCache
from ssl_cert_server.service.certificates import Certificates
from ssl_cert_server.service.changes import ChangeWatch
from ssl_cert_server.service.held import HeldCertificates
from ssl_cert_server.service.issuance import AcmeCertificates
from ssl_cert_server.service.mirror_watch import MirrorWatch
from ssl_cert_server.service.news import News
from ssl_cert_server.service.policy import Policy, PolicyRules, SelfSignedRule, Source
from ssl_cert_server.service.readiness import Readiness
from ssl_cert_server.service.refresh import Refresh
from ssl_cert_server.service.staples import Staples
from ssl_cert_server.service.sweep import StateSweep
from ssl_cert_server.service.turns import Turns
from ssl_cert_server.service.verdicts import SharedVerdicts
from ssl_cert_server.storage.base import Storage
from ssl_cert_server.storage.write_watch import WriteWatch

_MIB = 1024 * 1024
_DAY = 86_400.0
_SIDE_BY_SIDE = 32
"""Issuances at once."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What :mod:`~ssl_cert_server.server.run` needs.

    The application, its protocol, the work in the background, what knows the tls-alpn-01 challenges where those are
    enabled, what ends the wait of those who only wait for news, and of those who still wait for a certificate, and the
    bounds on connections.
    """

    app: Starlette
    protocol: type[CertServerProtocol]
    background: dict[str, Callable[[], Awaitable[None]]]
    tls_alpn01: TlsAlpn01Responder | None
    stop_polls: Callable[[], None]
    give_up: Callable[[], Awaitable[None]]
    bounds: Bounds


@asynccontextmanager
async def compose(config: Config, clock: Clock, bounds: Bounds = AMPLE) -> AsyncIterator[Parts]:
    """Build everything, and take it apart again in the opposite order.

    :raises StorageError: storage can't be opened.
    :raises StartError: the CA bundle can't be read.
    """
    async with AsyncExitStack() as stack:
        opened = open_storages(config, clock, create=True)
        storage, retention = WriteWatch(opened.storage, clock), opened.retention
        stack.push_async_callback(storage.close)
        await retention.load()
        policy = Policy(policy_rules(config))
        engine = await open_engine(config, storage, clock, stack)
        cache = AnswerCache(clock, config.cache_mb * _MIB)
        plan = renewal_plan(config, storage, clock)
        seen = SeenCertificates(plan, storage, clock)

        acme = AcmeCertificates(
            storage,
            engine.states,
            engine.attempts,
            Turns(_SIDE_BY_SIDE, clock),
            clock,
            ask=await open_ask(config, storage, clock, stack),
            upkeep=CertificateUpkeep(plan, seen, storage, on_stored=lambda *stored: certificates.replace(*stored)),
        )
        stack.push_async_callback(acme.close)
        managed = ManagedCertificates(
            storage,
            clock,
            [rule.cert_key for rule in config.managed],
            on_replaced=lambda subject, new: certificates.replace(subject, new, Source.MANAGED),
        )
        self_signed = SelfSignedIssuer(
            storage, clock, valid_days=config.self_signed.valid_days, organization=config.self_signed.organization
        )
        local_ca = LocalCa(storage, clock)
        issuers: dict[Source, Issuer] = {
            Source.MANAGED: managed,
            Source.ACME: acme,
            Source.LOCAL_CA: local_ca,
            Source.SELF_SIGNED: self_signed,
        }
        certificates = Certificates(cache, policy, issuers, clock)
        stack.push_async_callback(certificates.close)

        staples = Staples(policy, certificates, storage, clock, want=plan.want_staple)
        stack.push_async_callback(staples.close)
        responder = Responder(await stack.enter_async_context(open_http_client()), clock)
        held = HeldCertificates(policy, cache, managed, local_ca)
        retention.held = held.value
        write_back = WriteBack(
            retention,
            storage,
            policy,
            plan,
            clock,
            others=operators_keys(config) | self_signed_keys(config),
            in_memory=held.keys,
            lease_of=Kept(config).lease,
        )
        refresh = Refresh(
            policy,
            cache,
            certificates,
            staples,
            acme,
            managed,
            storage,
            on_removed=retention.note_removal,
            on_reset=write_back.look_at_all,
        )
        news = News(storage, refresh.names_of, bounds.polls)
        found = StoredCertificates(acme, storage, policy)
        background = {
            "managed.watch": managed.watch,
            "changes": ChangeWatch(storage, clock, news=news, on_change=refresh.one, everything=refresh.everything).run,
            "state.sweep": StateSweep(storage, clock).run,
            "renewal": RenewalWorker(plan, found, storage, clock).run,
            "renewal.index": IndexRebuild(plan, found, storage, clock).run,
            "renewal.seen": lambda: seen.run(found),
            "ocsp": StapleWorker(plan, found, responder, storage, clock).run,
            "ocsp.wanted": staples.run,
            "renewal.advice": AdviceWorker(plan, found, engine.cas, storage, clock).run,
            "renewal.expiry": ExpiryWorker(plan, found, storage, clock).run,
            "managed.expiry": ManagedExpiries(managed.in_use, plan, storage, clock).run,
            "write_back": write_back.run,
            **engine.background,
        }
        if opened.mirror is not None:
            mirror = opened.mirror
            watch = MirrorWatch(
                mirror.directory,
                mirror.mirrored,
                mirror.guarded,
                mirror.copies,
                clock,
                held.keys_and_root,
                held.value,
            )
            background["mirror.watch"] = watch.run
        if config.preload:
            background["preload"] = Preload(policy.listed(), acme, clock).run
        yield Parts(
            app=make_app(
                CertEndpoints(certificates, staples, clock, engine.tls_alpn01),
                ChangesEndpoint(news),
                engine.http01,
                Readiness(storage, clock, engine.check_budget),
            ),
            protocol=protocol_class(cache.get, Load(bounds.connections, bounds.waiting)),
            background=background,
            tls_alpn01=engine.tls_alpn01,
            stop_polls=news.close,
            give_up=certificates.close,
            bounds=bounds,
        )


def renewal_plan(config: Config, storage: Storage, clock: Clock) -> RenewalPlan:
    """Make what plans renewals."""
    days = config.lets_encrypt.renew_before
    return RenewalPlan(storage, clock, days * _DAY if days is not None else None)


def policy_rules(config: Config) -> PolicyRules:
    """Give what the configuration permits."""
    self_signed = config.self_signed
    return PolicyRules(
        managed=[(rule.pattern, rule.cert_key) for rule in config.managed],
        domains=config.permitted_domains,
        wildcards=config.wildcards,
        patterns=config.permitted_patterns,
        families=config.families,
        ask=config.ask is not None,
        max_labels=config.on_demand.max_labels,
        local_ca_patterns=config.local_ca.names if config.local_ca.enable else (),
        self_signed=SelfSignedRule(self_signed.cert_key, self_signed.check_sni) if self_signed.enable else None,
    )


async def open_ask(config: Config, storage: Storage, clock: Clock, stack: AsyncExitStack) -> Ask | None:
    """Make what asks the operator's endpoint, where there is one; what has to be closed again goes to ``stack``."""
    if config.ask is None:
        return None
    # Not by the environment's proxies: it is asked about names in the middle of handshakes.
    http = await stack.enter_async_context(httpx2.AsyncClient(trust_env=False))
    ask = Ask(
        http,
        clock,
        url=config.ask.url,
        timeout=config.ask.timeout,
        allowed_ttl=config.ask.allowed_ttl,
        refused_ttl=config.ask.refused_ttl,
        shared=SharedVerdicts(storage, clock),
    )
    stack.push_async_callback(ask.close)
    return ask
