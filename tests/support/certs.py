"""Certificates of any shape, for tests that need one no CA of ours would make."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.support.clock import START

DAY = 86_400

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True)
class Pair:
    """A private key and the certificate for it."""

    key: Key = field(repr=False)
    certificate: x509.Certificate

    @property
    def key_pem(self) -> bytes:
        """SEC 1 or PKCS #1."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())

    @property
    def pkcs8(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def stored(self) -> bytes:
        """The two in one file, as storage keeps them."""
        return self.key_pem + self.pem


def make_pair(
    names: Sequence[str] = (),
    *,
    start: float = START - DAY,
    end: float = START + 90 * DAY,
    key: Key | None = None,
    signer: Pair | None = None,
    extensions: Sequence[x509.ExtensionType] = (),
    subject: str = "test",
) -> Pair:
    """A certificate for ``names``, valid from ``start`` to ``end`` (Unix seconds), signed by itself or ``signer``."""
    own_key = key or ec.generate_private_key(ec.SECP256R1())
    own_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    builder = x509.CertificateBuilder(
        issuer_name=signer.certificate.subject if signer else own_name,
        subject_name=own_name,
        public_key=own_key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=datetime.datetime.fromtimestamp(start, datetime.UTC),
        not_valid_after=datetime.datetime.fromtimestamp(end, datetime.UTC),
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), False)
    for extension in extensions:
        builder = builder.add_extension(extension, False)
    return Pair(own_key, builder.sign(signer.key if signer else own_key, hashes.SHA256()))
