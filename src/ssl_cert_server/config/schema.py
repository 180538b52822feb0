"""The configuration as frozen values: every key, its type, its default. docs/configuration.md tells what each means."""

# No `from __future__ import annotations` here: pydantic reads the annotations.

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, model_validator

from ssl_cert_server.config import values
from ssl_cert_server.config.addresses import ListenAddress, TcpAddress, parse_address

LETS_ENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"
LETS_ENCRYPT_STAGING = "https://acme-staging-v02.api.letsencrypt.org/directory"

_DEFAULT_ORGANIZATION = ("SSL Cert Server Self-Signed",)
_CENTURY = 36500


def _some(value: tuple[object, ...]) -> tuple[object, ...]:
    if not value:
        raise ValueError("must have at least one entry")
    return value


def _one_or_more(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _text_only(value: object) -> object:
    return values.plain_text(value) if isinstance(value, str) else value


def _storage_type(value: object) -> str:
    if value in ("redis", "postgres"):
        raise ValueError(f"{value} is not available in this version; use dir_cache")
    if value != "dir_cache":
        raise ValueError("must be dir_cache")
    return "dir_cache"


Text = Annotated[str, AfterValidator(values.plain_text)]
FilePath = Annotated[Path, BeforeValidator(_text_only)]
HostName = Annotated[Text, AfterValidator(values.host_name)]
Pattern = Annotated[Text, AfterValidator(values.pattern)]
StorageKey = Annotated[Text, AfterValidator(values.storage_key)]
Email = Annotated[Text, AfterValidator(values.email)]
Days = Annotated[int, Field(ge=1, le=_CENTURY)]


class Section(BaseModel):
    """A mapping of the file. A key whose value is null or empty text counts as left out, as with the predecessor."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _leave_out_empty(cls, data: object) -> object:
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if key not in cls.model_fields or value not in (None, "")}


class Redis(Section):
    """Kept so that the predecessor's file loads; nothing reads it while ``storage.type`` can't be ``redis``."""

    addr: Text = "127.0.0.1:6379"
    prefix: Text = ""


class Storage(Section):
    """Where certificates and accounts are kept."""

    type: Annotated[Literal["dir_cache"], PlainValidator(_storage_type)] = "dir_cache"
    dir_cache: FilePath = Path("./secret-dir")
    redis: Redis = Redis()


class Managed(Section):
    """A certificate the operator keeps in storage, for the names that match whole."""

    pattern: Pattern
    cert_key: StorageKey


class LetsEncrypt(Section):
    """The predecessor's section. ``renew_before`` is in days; None leaves the time to the server."""

    staging: bool = False
    force_rsa: bool = False
    renew_before: Days | None = None
    email: Email = ""
    domains: tuple[HostName, ...] = ()
    re_patterns: tuple[Pattern, ...] = ()


class Acme(Section):
    """A CA that speaks ACME. ``ca_bundle`` holds the roots its HTTPS is checked against, instead of the system's."""

    directory_url: Annotated[Text, AfterValidator(values.directory_url)]
    ca_bundle: Annotated[FilePath, AfterValidator(values.ca_bundle)] | None = None
    email: Email = ""


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
    names: Annotated[tuple[Pattern, ...], AfterValidator(_some)] = (
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
        BeforeValidator(_one_or_more),
        AfterValidator(_some),
    ] = (TcpAddress("127.0.0.1", 8999),)
    pid_file: FilePath = Path("ssl-cert-server.pid")
    storage: Storage = Storage()
    managed: tuple[Managed, ...] = ()
    domains: tuple[HostName, ...] = ()
    re_patterns: tuple[Pattern, ...] = ()
    lets_encrypt: LetsEncrypt = LetsEncrypt()
    acme: tuple[Acme, ...] = ()
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
    def ca(self) -> Acme:
        """The CA that issues: the configured one, else Let's Encrypt."""
        if self.acme:
            return self.acme[0]
        url = LETS_ENCRYPT_STAGING if self.lets_encrypt.staging else LETS_ENCRYPT
        return Acme(directory_url=url, email=self.lets_encrypt.email)
