"""Certificate signing requests."""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ssl_cert_server.pki.alternative_names import to_extension
from ssl_cert_server.pki.keys import PrivateKey


def make_csr(key: PrivateKey, names: Sequence[str]) -> bytes:
    """Make a CSR in DER for DNS names and IP addresses.

    The subject stays empty, as CAs ignore or reject a long common name.
    """
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    builder = builder.add_extension(to_extension(names), critical=False)
    return builder.sign(key, _hash_for(key)).public_bytes(Encoding.DER)


def _hash_for(key: PrivateKey) -> hashes.SHA256 | hashes.SHA384:
    # No weaker than the curve: some CAs take P-384 with SHA-384 only.
    strong = isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.key_size > 256
    return hashes.SHA384() if strong else hashes.SHA256()
