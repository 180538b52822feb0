"""From PEM bytes to a :class:`~ssl_cert_server.model.Certificate` that is known to be usable."""

from __future__ import annotations

import re

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ssl_cert_server.errors import InvalidCertificate
from ssl_cert_server.model import Certificate
from ssl_cert_server.pki.alternative_names import names_of
from ssl_cert_server.pki.authority_access import ocsp_urls
from ssl_cert_server.pki.keys import PrivateKey, family_of, key_from_pem, key_to_pem
from ssl_cert_server.pki.names import covers

_UNPARSABLE = (
    ValueError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What cryptography raises for certificates that are broken, or that it doesn't know how to read."""

_KEY_BLOCK = re.compile(rb"-----BEGIN (?P<label>[A-Z ]*PRIVATE KEY)-----.*?-----END (?P=label)-----\r?\n?", re.DOTALL)


def parse_certificate(stored: bytes) -> Certificate:
    """Parse a private key and a chain held in one PEM file, in any order, as storage keeps them.

    The validity period and the name are not looked at: see :func:`check_usable`.

    :raises InvalidCertificate: no key, no certificate, unparsable, or key and leaf don't belong together.
    """
    block = _KEY_BLOCK.search(stored)
    if block is None:
        raise InvalidCertificate("no private key in the PEM data")
    return assemble(key_from_pem(block.group()), stored[: block.start()] + stored[block.end() :])


def assemble(key: PrivateKey, chain_pem: bytes) -> Certificate:
    """Put a private key and a chain in PEM (leaf first) together.

    :raises InvalidCertificate: the chain can't be parsed or its leaf is for another key.
    """
    try:
        chain = x509.load_pem_x509_certificates(chain_pem)
        leaf = chain[0]
        names = names_of(leaf.extensions)
        matches = _public_bytes(leaf.public_key()) == _public_bytes(key.public_key())
    except _UNPARSABLE as error:
        raise InvalidCertificate(f"the certificate chain can't be parsed: {error}") from error
    if chain_pem.count(b"-----BEGIN ") != chain_pem.count(b"-----END "):
        # The parser takes what is whole. A chain without its intermediate would fail for some clients only.
        raise InvalidCertificate("the certificate chain is cut off")
    if not matches:
        raise InvalidCertificate("the private key does not belong to the first certificate of the chain")
    return Certificate(
        key_pem=key_to_pem(key),
        chain_pem=b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain),
        fingerprint=leaf.fingerprint(hashes.SHA1()).hex(),  # noqa: S303 - a name on the wire; it protects nothing
        not_before=int(leaf.not_valid_before_utc.timestamp()),
        not_after=int(leaf.not_valid_after_utc.timestamp()),
        names=names,
        family=family_of(key),
        ocsp_urls=ocsp_urls(leaf),
    )


def check_not_expired(certificate: Certificate, now: float) -> None:
    """Refuse an expired certificate.

    One that isn't valid yet may pass: of what a CA issued, it says that our own clock is behind.

    :raises InvalidCertificate: expired at ``now`` (Unix seconds).
    """
    if now >= certificate.not_after:
        raise InvalidCertificate("the certificate is expired")


def check_usable(certificate: Certificate, now: float) -> None:
    """Refuse a certificate outside its validity period.

    :raises InvalidCertificate: expired or not yet valid at ``now`` (Unix seconds).
    """
    check_not_expired(certificate, now)
    if now < certificate.not_before:
        raise InvalidCertificate("the certificate is not valid yet")


def parse_usable(stored: bytes, now: float) -> Certificate:
    """Parse a private key and a chain as :func:`parse_certificate` does, and check its validity period.

    :raises InvalidCertificate: it can't be parsed, or is outside its validity period at ``now`` (Unix seconds).
    """
    certificate = parse_certificate(stored)
    check_usable(certificate, now)
    return certificate


def check_covers(certificate: Certificate, name: str) -> None:
    """Refuse a certificate that is for other names.

    :raises InvalidCertificate: none of the leaf's names covers ``name``.
    """
    if not any(covers(san, name) for san in certificate.names):
        raise InvalidCertificate(f"the certificate does not cover {name}")


def _public_bytes(key: object) -> bytes:
    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]
    return encoded
