"""The CAs that certificates come from: Let's Encrypt in the predecessor's section, or any in a list."""

# No `from __future__ import annotations` here: pydantic reads the annotations.

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, PlainValidator, SecretStr, model_validator

from ssl_cert_server.config import secrets, values
from ssl_cert_server.config.section import (
    Days,
    Email,
    FilePath,
    Name,
    Pattern,
    RateLimit,
    Section,
    Text,
    one_or_more,
    some,
)
from ssl_cert_server.model import KeyFamily, KeyType

LETS_ENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"
LETS_ENCRYPT_STAGING = "https://acme-staging-v02.api.letsencrypt.org/directory"

LETS_ENCRYPT_LIMITS = {
    "new_orders": "300/3h",
    "per_registered_domain": "50/7d",
    "per_exact_set": "5/7d",
    "failed_authorizations": "5/1h",
}
"""As https://letsencrypt.org/docs/rate-limits/ gives them."""

_MAX_KINDS = 2


def _key_type(value: object) -> KeyType:
    try:
        return KeyType(value)  # type: ignore[arg-type]
    except ValueError as error:
        *most, last = KeyType
        raise ValueError(f"must be {', '.join(most)} or {last}") from error


def _families_differ(kinds: tuple[KeyType, ...]) -> tuple[KeyType, ...]:
    if len(kinds) > _MAX_KINDS or len({kind.family for kind in kinds}) < len(kinds):
        raise ValueError("must be one kind of key, or two: one ECDSA and one RSA")
    return kinds


KeyTypes = Annotated[
    tuple[Annotated[KeyType, PlainValidator(_key_type)], ...],
    BeforeValidator(one_or_more),
    AfterValidator(some),
    AfterValidator(_families_differ),
]
_Base64Url = AfterValidator(secrets.base64url)


class LetsEncrypt(Section):
    """The predecessor's section. ``renew_before`` is in days; None leaves the time to the server."""

    staging: bool = False
    force_rsa: bool = False
    renew_before: Days | None = None
    email: Email = ""
    domains: tuple[Name, ...] = ()
    re_patterns: tuple[Pattern, ...] = ()


class Eab(Section):
    """External account binding (RFC 8555 section 7.3.4): what a CA gave its customer.

    Whichever of the three keys is given, its value here is the HMAC key itself.
    """

    kid: Text
    hmac_key: Annotated[SecretStr, PlainValidator(secrets.inline), _Base64Url] | None = None
    hmac_key_file: Annotated[SecretStr, PlainValidator(secrets.from_file), _Base64Url] | None = None
    hmac_key_env: Annotated[SecretStr, PlainValidator(secrets.from_environment), _Base64Url] | None = None

    @model_validator(mode="after")
    def _one_key(self) -> "Eab":
        if len(self._given()) != 1:
            raise ValueError("needs exactly one of hmac_key, hmac_key_file and hmac_key_env")
        return self

    @property
    def secret(self) -> SecretStr:
        """The HMAC key, in base64url."""
        return self._given()[0]

    def _given(self) -> list[SecretStr]:
        return [key for key in (self.hmac_key, self.hmac_key_file, self.hmac_key_env) if key is not None]


class Limits(Section):
    """What a CA allows, and what the server therefore never asks for more than."""

    new_orders: RateLimit = None
    per_registered_domain: RateLimit = None
    per_exact_set: RateLimit = None
    failed_authorizations: RateLimit = None


class Acme(Section):
    """A CA that speaks ACME. ``ca_bundle`` holds the roots its HTTPS is checked against, instead of the system's."""

    directory_url: Annotated[Text, AfterValidator(values.directory_url)]
    ca_bundle: Annotated[FilePath, AfterValidator(values.ca_bundle)] | None = None
    email: Email = ""
    eab: Eab | None = None
    profile: Text | None = None
    key_type: KeyTypes | None = None
    preferred_chain: Text | None = None
    limits: Limits = Limits()

    @model_validator(mode="before")
    @classmethod
    def _known_limits(cls, data: object) -> object:
        if not isinstance(data, dict) or data.get("directory_url") != LETS_ENCRYPT:
            return data
        given = data.get("limits") or {}
        if not isinstance(given, dict):
            return data
        given = {key: value for key, value in given.items() if value not in (None, "")}
        return {**data, "limits": LETS_ENCRYPT_LIMITS | given}

    @property
    def key_types(self) -> tuple[KeyType, ...]:
        """The kinds of key to issue certificates for: one, or two of different families, the usual one first."""
        return self.key_type or (KeyType.ECDSA_P256,)

    @property
    def families(self) -> tuple[KeyFamily, ...]:
        """The families of ``key_types``."""
        return tuple(kind.family for kind in self.key_types)
