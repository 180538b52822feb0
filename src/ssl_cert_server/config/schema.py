"""The configuration as frozen values: every key, its type, its default. docs/configuration.md tells what each means."""

# No `from __future__ import annotations` here: pydantic reads the annotations.

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator

from ssl_cert_server.config import values
from ssl_cert_server.config.addresses import ListenAddress, TcpAddress, parse_address
from ssl_cert_server.config.authorities import LETS_ENCRYPT, LETS_ENCRYPT_STAGING, Acme, LetsEncrypt
from ssl_cert_server.config.challenges import Challenges
from ssl_cert_server.config.permissions import Ask, Dns, OnDemand, Preflight
from ssl_cert_server.config.section import (
    Days,
    FilePath,
    Name,
    Pattern,
    Section,
    StorageKey,
    Text,
    Wildcard,
    one_or_more,
    some,
)
from ssl_cert_server.config.storage import Storage
from ssl_cert_server.model import KeyFamily, KeyType

_TERABYTE = 1024 * 1024
_DEFAULT_ORGANIZATION = ("SSL Cert Server Self-Signed",)


class Managed(Section):
    """A certificate the operator keeps in storage, for the names that match whole."""

    pattern: Pattern
    cert_key: StorageKey


class SelfSigned(Section):
    """One self-signed certificate for every name no other rule covers."""

    enable: bool = False
    check_sni: bool = False
    valid_days: Days = 365
    organization: Annotated[
        tuple[Annotated[Text, AfterValidator(values.organization)], ...],
        AfterValidator(lambda names: names or _DEFAULT_ORGANIZATION),
    ] = _DEFAULT_ORGANIZATION
    cert_key: StorageKey = "self_signed"


class LocalCa(Section):
    """A CA of our own for names that no public CA would issue for."""

    enable: bool = False
    names: Annotated[tuple[Pattern, ...], AfterValidator(some)] = (
        r"(.+\.)?localhost",
        r".+\.(test|internal)",
        r"(.+\.)?home\.arpa",
    )


class Config(Section):
    """The whole configuration. ``Config()`` is what the server runs with when it has no file: for development.

    It differs from that of an empty file in one thing: the local CA is enabled.
    """

    listen: Annotated[
        tuple[Annotated[ListenAddress, PlainValidator(parse_address)], ...],
        BeforeValidator(one_or_more),
        AfterValidator(some),
    ] = (TcpAddress("127.0.0.1", 8999),)
    pid_file: FilePath = Path("ssl-cert-server.pid")
    storage: Storage = Storage()
    managed: tuple[Managed, ...] = ()
    domains: tuple[Name, ...] = ()
    wildcards: tuple[Wildcard, ...] = ()
    re_patterns: tuple[Pattern, ...] = ()
    preload: bool = False
    cache_mb: Annotated[int, Field(ge=1, le=_TERABYTE)] = 256
    ask: Ask | None = None
    on_demand: OnDemand = OnDemand()
    lets_encrypt: LetsEncrypt = LetsEncrypt()
    acme: tuple[Acme, ...] = ()
    challenges: Challenges = Challenges()
    dns: Dns = Dns()
    preflight: Preflight = Preflight()
    self_signed: SelfSigned = SelfSigned()
    local_ca: LocalCa = LocalCa(enable=True)

    @property
    def permitted_domains(self) -> tuple[str, ...]:
        """The names a CA may issue for, both spellings of the key merged, each name once."""
        return tuple(dict.fromkeys(self.domains + self.lets_encrypt.domains))

    @property
    def permitted_patterns(self) -> tuple[str, ...]:
        """The patterns of names a CA may issue for, both spellings of the key merged, each pattern once."""
        return tuple(dict.fromkeys(self.re_patterns + self.lets_encrypt.re_patterns))

    @property
    def cas(self) -> tuple[Acme, ...]:
        """The CAs to issue from, in order, with their kinds of key settled; Let's Encrypt where none is configured."""
        given = self.acme or (self._lets_encrypt(),)
        usual = KeyType.RSA_2048 if self.lets_encrypt.force_rsa else KeyType.ECDSA_P256
        return tuple(ca if ca.key_type else ca.model_copy(update={"key_type": (usual,)}) for ca in given)

    @property
    def families(self) -> tuple[KeyFamily, ...]:
        """The families of keys that every CA issues for, the usual one first."""
        return self.cas[0].families

    def _lets_encrypt(self) -> Acme:
        url = LETS_ENCRYPT_STAGING if self.lets_encrypt.staging else LETS_ENCRYPT
        return Acme(directory_url=url, email=self.lets_encrypt.email)
