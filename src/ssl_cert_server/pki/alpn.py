"""The certificate that answers a tls-alpn-01 challenge (RFC 8737 section 3)."""

from __future__ import annotations

import datetime
import hashlib

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from ssl_cert_server.model import Certificate, KeyType
from ssl_cert_server.pki.alternative_names import to_extension
from ssl_cert_server.pki.keys import generate_key
from ssl_cert_server.pki.x509 import assemble

_ACME_IDENTIFIER = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")
_OCTET_STRING_OF_32 = b"\x04\x20"
# No CA looks at the validity, or at this name. Both are there because some parsers want them.
_SUBJECT = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ACME challenge")])
_EITHER_WAY = datetime.timedelta(days=7)


def make_challenge_certificate(name: str, key_authorization: str, now: float) -> Certificate:
    """Make the self-signed certificate, with a new P-256 key, that proves control of a host name or IP address.

    Of the key authorization it holds the SHA-256 alone. ``now`` is in Unix seconds.
    """
    key = generate_key(KeyType.ECDSA_P256)
    digest = hashlib.sha256(key_authorization.encode()).digest()
    at = datetime.datetime.fromtimestamp(int(now), tz=datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_SUBJECT)
        .issuer_name(_SUBJECT)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - _EITHER_WAY)
        .not_valid_after(at + _EITHER_WAY)
        .add_extension(to_extension([name.lower()]), critical=False)
        .add_extension(x509.UnrecognizedExtension(_ACME_IDENTIFIER, _OCTET_STRING_OF_32 + digest), critical=True)
        .sign(key, hashes.SHA256())
    )
    return assemble(key, certificate.public_bytes(Encoding.PEM))
