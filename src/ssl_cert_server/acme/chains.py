"""Certificate chains as CAs hand them out, and the one to take (RFC 8555 section 7.4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from ssl_cert_server.errors import MalformedResponse


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain, leaf first, and by the common names of whom its certificates were issued."""

    certificates: tuple[x509.Certificate, ...]
    issuers: tuple[str, ...]

    @classmethod
    def parse(cls, pem: bytes) -> Chain:
        """:raises MalformedResponse: no certificates in PEM, or not all of them whole."""
        try:
            certificates = x509.load_pem_x509_certificates(pem)
            issuers = tuple(_common_name(certificate.issuer) for certificate in certificates)
        except ValueError as error:
            raise MalformedResponse("certificate: the answer holds no PEM certificates") from error
        if pem.count(b"-----BEGIN ") != len(certificates):
            # The parser takes what is whole. A chain without its intermediate would fail for some clients only.
            raise MalformedResponse("certificate: the chain is cut off")
        return cls(tuple(certificates), issuers)

    @property
    def pem(self) -> bytes:
        """The certificates with nothing between them."""
        return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in self.certificates)

    def ends_at(self, issuer: str) -> bool:
        """Whether the topmost certificate is this issuer's."""
        return self.issuers[-1] == issuer


def preferred(chains: Sequence[Chain], issuer: str) -> Chain | None:
    """Give the first chain that ends at the issuer, else the first that leads through it, None where none does."""
    through = (chain for chain in chains if issuer in chain.issuers)
    ending = (chain for chain in chains if chain.ends_at(issuer))
    return next(ending, None) or next(through, None)


def _common_name(name: x509.Name) -> str:
    names = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""
