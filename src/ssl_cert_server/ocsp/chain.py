"""By whom a leaf was issued: found among certificates that may be anybody's."""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import pkcs7

from ssl_cert_server.pki.authority_access import authority_key

_NOT_THE_ISSUER = (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError)


def issuer_among(leaf: x509.Certificate, candidates: Sequence[x509.Certificate]) -> x509.Certificate | None:
    """Find the issuer by its name, its key's identifier where the leaf tells it, and by its signature."""
    return next((candidate for candidate in candidates if _issued(candidate, leaf)), None)


def parse_issuers(body: bytes) -> list[x509.Certificate]:
    """Parse what stands behind a caIssuers URL (RFC 5280 section 4.2.2.1), which may be anything.

    It should be one certificate in DER, or several in PKCS #7; PEM is met, too. What is none of these gives none.
    """
    try:
        if body.lstrip().startswith(b"-----BEGIN CERTIFICATE-----"):
            return x509.load_pem_x509_certificates(body)
        return [x509.load_der_x509_certificate(body)]
    except ValueError:
        pass
    try:
        return [*pkcs7.load_der_pkcs7_certificates(body)]
    except (ValueError, UnsupportedAlgorithm):
        return []


def _issued(candidate: x509.Certificate, leaf: x509.Certificate) -> bool:
    wanted, has = authority_key(leaf), _subject_key(candidate)
    if candidate.subject != leaf.issuer or (wanted and has and wanted != has):
        return False
    try:
        leaf.verify_directly_issued_by(candidate)
    except _NOT_THE_ISSUER:
        return False
    return True


def _subject_key(certificate: x509.Certificate) -> bytes | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except (x509.ExtensionNotFound, ValueError):
        return None
