"""Certificate signing requests."""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from ssl_cert_server.pki.keys import PrivateKey


def make_csr(key: PrivateKey, names: Sequence[str]) -> bytes:
    """Make a CSR in DER for DNS names; the subject stays empty, as CAs ignore or reject a long common name."""
    alternative_names = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return (
        builder.add_extension(alternative_names, critical=False).sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    )
