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


class KeyType(enum.StrEnum):
    """What a leaf's private key is."""

    ECDSA_P256 = "ecdsa-p256"
    RSA_2048 = "rsa-2048"


@dataclass(frozen=True, slots=True)
class Certificate:
    """A private key and its chain, checked to belong together.

    ``key_pem`` is SEC 1 or PKCS #1 PEM, ``chain_pem`` the chain leaf first, ``fingerprint`` the lower-case hex SHA-1
    of the leaf's DER, ``not_before`` and ``not_after`` Unix seconds, ``names`` the leaf's DNS names in lower case,
    wildcards as they stand.
    """

    key_pem: bytes = field(repr=False)
    chain_pem: bytes = field(repr=False)
    fingerprint: str
    not_before: int
    not_after: int
    names: frozenset[str]

    @property
    def stored(self) -> bytes:
        """The bytes kept in storage: the key's PEM followed by the chain's."""
        return self.key_pem + self.chain_pem

    @property
    def lifetime(self) -> int:
        """Seconds from notBefore to notAfter."""
        return self.not_after - self.not_before


@dataclass(frozen=True, slots=True)
class OpenOrder:
    """An order at a CA that may still turn into a certificate, and the private key that its CSR is made with."""

    directory_url: str
    order_url: str
    key_pem: str = field(repr=False)
