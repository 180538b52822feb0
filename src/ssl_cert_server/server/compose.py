"""From a configuration to the objects of a running server: the only place that knows all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from starlette.applications import Starlette

from ssl_cert_server.acme.client import AcmeClient
from ssl_cert_server.acme.transport import open_http_client
from ssl_cert_server.challenges.http01 import Http01Responder
from ssl_cert_server.clock import Clock
from ssl_cert_server.config.schema import Config
from ssl_cert_server.http.app import make_app
from ssl_cert_server.http.protocol import CertServerProtocol, protocol_class
from ssl_cert_server.issuers.account import AcmeAccount
from ssl_cert_server.issuers.acme import AcmeCa
from ssl_cert_server.issuers.base import Issuer
from ssl_cert_server.issuers.local_ca import LocalCa
from ssl_cert_server.issuers.managed import ManagedCertificates
from ssl_cert_server.issuers.self_signed import SelfSignedIssuer
from ssl_cert_server.model import Certificate, KeyType
from ssl_cert_server.renewal.worker import RenewalSchedule, RenewalWorker
from ssl_cert_server.service.cache import AnswerCache
from ssl_cert_server.service.certificates import Certificates
from ssl_cert_server.service.issuance import AcmeCertificates
from ssl_cert_server.service.policy import Policy, PolicyRules, SelfSignedRule, Source
from ssl_cert_server.service.readiness import Readiness
from ssl_cert_server.storage.base import Storage
from ssl_cert_server.storage.directory import DirectoryStorage

_CACHE_BYTES = 256 * 1024 * 1024
_DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Parts:
    """What :mod:`~ssl_cert_server.server.run` needs.

    The application, its protocol, the work in the background, and what ends the wait of those who still wait.
    """

    app: Starlette
    protocol: type[CertServerProtocol]
    background: dict[str, Callable[[], Awaitable[None]]]
    give_up: Callable[[], Awaitable[None]]


@asynccontextmanager
async def compose(config: Config, clock: Clock) -> AsyncIterator[Parts]:
    """Build everything, and take it apart again in the opposite order.

    :raises StorageError: storage can't be opened.
    :raises StartError: the CA bundle can't be read.
    """
    async with AsyncExitStack() as stack:
        storage = open_storage(config, clock)
        stack.push_async_callback(storage.close)
        policy = Policy(policy_rules(config))
        http01 = Http01Responder(storage, clock)
        cache = AnswerCache(clock, _CACHE_BYTES)
        days = config.lets_encrypt.renew_before
        schedule = RenewalSchedule(clock, days * _DAY if days is not None else None)
        ca = await _open_ca(config, storage, clock, http01, stack)

        def stored(name: str, certificate: Certificate) -> None:
            schedule.add_new(name, certificate)
            certificates.replace(name, certificate)

        acme = AcmeCertificates(
            storage,
            ca,
            clock,
            on_known=schedule.add,
            on_stored=stored,
        )
        stack.push_async_callback(acme.close)
        managed = ManagedCertificates(storage, clock, on_replaced=cache.drop_certificate)
        self_signed = SelfSignedIssuer(
            storage, clock, valid_days=config.self_signed.valid_days, organization=config.self_signed.organization
        )
        issuers: dict[Source, Issuer] = {
            Source.MANAGED: managed,
            Source.ACME: acme,
            Source.LOCAL_CA: LocalCa(storage, clock),
            Source.SELF_SIGNED: self_signed,
        }
        certificates = Certificates(cache, policy, issuers, clock)
        stack.push_async_callback(certificates.close)
        yield Parts(
            app=make_app(certificates, http01, Readiness(storage, clock)),
            protocol=protocol_class(cache.get),
            background={
                "managed.watch": managed.watch,
                "renewal": RenewalWorker(schedule, acme, storage, policy, clock).run,
                "http01.left_over": http01.remove_left_over,
            },
            give_up=certificates.close,
        )


def open_storage(config: Config, clock: Clock) -> Storage:
    """Open the storage that the configuration names.

    :raises StorageError: it can't be opened.
    """
    return DirectoryStorage(config.storage.dir_cache, clock)


def policy_rules(config: Config) -> PolicyRules:
    """Give what the configuration permits."""
    self_signed = config.self_signed
    return PolicyRules(
        managed=[(rule.pattern, rule.cert_key) for rule in config.managed],
        domains=config.permitted_domains,
        patterns=config.permitted_patterns,
        key_type=_key_type(config),
        local_ca_patterns=config.local_ca.names if config.local_ca.enable else (),
        self_signed=SelfSignedRule(self_signed.cert_key, self_signed.check_sni) if self_signed.enable else None,
    )


async def _open_ca(
    config: Config, storage: Storage, clock: Clock, http01: Http01Responder, stack: AsyncExitStack
) -> AcmeCa:
    url = config.ca.directory_url
    http = await stack.enter_async_context(open_http_client(config.ca.ca_bundle))
    client = AcmeClient(url, http, clock)
    account = AcmeAccount(storage, client, clock, directory_url=url, email=config.ca.email)
    return AcmeCa(account, http01, clock, directory_url=url, key_type=_key_type(config))


def _key_type(config: Config) -> KeyType:
    return KeyType.RSA_2048 if config.lets_encrypt.force_rsa else KeyType.ECDSA_P256
