"""How control of a name is proven to a CA."""

# No `from __future__ import annotations` here: pydantic reads the annotations.

from typing import Annotated

from pydantic import BeforeValidator, Field, PlainValidator, SecretStr, model_validator

from ssl_cert_server.config import secrets
from ssl_cert_server.config.addresses import Nameserver, TcpAddress, parse_nameserver, parse_tcp_address
from ssl_cert_server.config.section import Section, Text, ZoneName, one_or_more

_HOUR = 3600


def _leave_out_empty(options: object) -> object:
    if not isinstance(options, dict):
        return options
    return {name: value for name, value in options.items() if value not in (None, "")}


Nameservers = tuple[Annotated[Nameserver, PlainValidator(parse_nameserver)], ...]
Options = Annotated[
    dict[str, Annotated[SecretStr, PlainValidator(secrets.inline)]],
    BeforeValidator(_leave_out_empty),
]


class TlsAlpn01(Section):
    """tls-alpn-01, answered by clients that terminate TLS, and where ``listen`` is given by the server itself."""

    enable: bool = False
    listen: Annotated[
        tuple[Annotated[TcpAddress, PlainValidator(parse_tcp_address)], ...],
        BeforeValidator(one_or_more),
    ] = ()

    @model_validator(mode="before")
    @classmethod
    def _listening_is_enabled(cls, data: object) -> object:
        if isinstance(data, dict) and data.get("listen") and data.get("enable") in (None, ""):
            return {**data, "enable": True}
        return data


class _Provided(Section):
    """A DNS provider, its options as they are written, and the servers at which a value must be seen.

    Which options there are is the provider's to say; it also reads those that stand in files or in the environment.
    """

    provider: Text | None = None
    options: Options = Field(default={})
    nameservers: Nameservers = ()

    @property
    def plain_options(self) -> dict[str, str]:
        """The options for the provider. They may hold secrets."""
        return {name: value.get_secret_value() for name, value in self.options.items()}


class Zone(_Provided):
    """The provider for the names in one DNS zone."""

    zone: ZoneName
    provider: Text


class Dns01(_Provided):
    """dns-01: a provider for every zone that isn't listed, and those that are."""

    zones: tuple[Zone, ...] = ()
    propagation_timeout: Annotated[int, Field(ge=1, le=_HOUR)] = 120

    @property
    def enabled(self) -> bool:
        """Whether there is any provider."""
        return self.provider is not None or bool(self.zones)


class Challenges(Section):
    """What is enabled."""

    http01: bool = True
    tls_alpn01: TlsAlpn01 = TlsAlpn01()
    dns01: Dns01 = Dns01()
