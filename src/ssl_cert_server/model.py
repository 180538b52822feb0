"""Frozen values that travel between the rooms."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class CertificateType(enum.IntEnum):
    """The ``type`` field of the wire protocol. Below 100 a staple may exist."""

    ACME = 0
    MANAGED = 1
    SELF_SIGNED = 100
    TLS_ALPN_CHALLENGE = 101


class KeyFamily(enum.StrEnum):
    """What clients tell apart: a server may hold a certificate of each family for one name."""

    ECDSA = "ecdsa"
    RSA = "rsa"


class KeyType(enum.StrEnum):
    """What a leaf's private key is."""

    ECDSA_P256 = "ecdsa-p256"
    ECDSA_P384 = "ecdsa-p384"
    RSA_2048 = "rsa-2048"
    RSA_3072 = "rsa-3072"
    RSA_4096 = "rsa-4096"

    @property
    def family(self) -> KeyFamily:
        """The family it belongs to."""
        return KeyFamily(self.partition("-")[0])


@dataclass(frozen=True, slots=True)
class Certificate:
    """A private key and its chain, checked to belong together.

    ``key_pem`` is SEC 1 or PKCS #1 PEM, ``chain_pem`` the chain leaf first, ``fingerprint`` the lower-case hex SHA-1
    of the leaf's DER, ``not_before`` and ``not_after`` Unix seconds, ``names`` the leaf's DNS names in lower case,
    wildcards as they stand, and its IP addresses in RFC 5952 form, ``family`` what its key is, ``ocsp_urls`` where
    its CA answers for it by OCSP: most CAs don't any more.
    """

    key_pem: bytes = field(repr=False)
    chain_pem: bytes = field(repr=False)
    fingerprint: str
    not_before: int
    not_after: int
    names: frozenset[str]
    family: KeyFamily
    ocsp_urls: tuple[str, ...] = ()

    @property
    def stored(self) -> bytes:
        """The bytes kept in storage: the key's PEM followed by the chain's."""
        return self.key_pem + self.chain_pem

    @property
    def lifetime(self) -> int:
        """Seconds from notBefore to notAfter."""
        return self.not_after - self.not_before


class Permission(enum.Enum):
    """Who permitted that a certificate is issued for a name."""

    LISTED = "listed"
    """The operator, by the name itself or by a wildcard that covers it."""

    PATTERN = "pattern"
    """The operator, by a pattern: strangers choose among the names that match."""

    ASK = "ask"
    """Nobody yet: the endpoint of ``ask`` has to be asked before anything is issued."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What a certificate is for.

    ``cert_key`` is its storage key (empty where none is stored). The rest says what is ordered: ``names`` that go into
    one certificate, as they are ordered (wildcards with their ``*.``, IP addresses in RFC 5952 form), the ``family``
    of its key, and whose ``permission`` there is.
    """

    cert_key: str = ""
    names: tuple[str, ...] = ()
    family: KeyFamily = KeyFamily.ECDSA
    permission: Permission = Permission.LISTED

    @property
    def on_demand(self) -> bool:
        """Whether a stranger's question brought the name up."""
        return self.permission is not Permission.LISTED


@dataclass(frozen=True, slots=True)
class OpenOrder:
    """An order at a CA that may still turn into a certificate, and the private key that its CSR is made with.

    ``placed_at`` is in Unix seconds; 0.0 where it isn't known.
    """

    directory_url: str
    order_url: str
    key_pem: str = field(repr=False)
    placed_at: float = 0.0
