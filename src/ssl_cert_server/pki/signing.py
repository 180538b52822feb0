"""Certificates that we sign ourselves: self-signed ones, the local CA's root, and the local CA's leaves."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ssl_cert_server.errors import InvalidCertificate
from ssl_cert_server.model import Certificate, KeyType
from ssl_cert_server.pki.alternative_names import to_extension
from ssl_cert_server.pki.keys import PrivateKey, generate_key, key_from_pem
from ssl_cert_server.pki.x509 import assemble

# Clients' clocks are off by minutes; a certificate made just now must already be valid for them.
_CLOCK_SKEW = 300
_DAY = 86_400


@dataclass(frozen=True, slots=True)
class Validity:
    """A validity period in Unix seconds."""

    not_before: int
    not_after: int

    @classmethod
    def days_from(cls, now: float, days: int) -> Validity:
        """From a little before ``now`` until ``days`` days after it."""
        return cls(int(now) - _CLOCK_SKEW, int(now) + days * _DAY)


def self_sign(organization: Sequence[str], names: Sequence[str], validity: Validity) -> Certificate:
    """Make a self-signed server certificate with a new P-256 key.

    ``names`` are DNS names, wildcards among them, and IP addresses; there may be none.
    """
    key = generate_key(KeyType.ECDSA_P256)
    subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, value) for value in organization])
    builder = _server_builder(subject, subject, key, names, validity)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    return assemble(key, _sign(builder, key))


def make_root(common_name: str, validity: Validity) -> Certificate:
    """Make the root of a local CA with a new P-256 key; it may sign leaves only (RFC 5280 pathLenConstraint 0)."""
    key = generate_key(KeyType.ECDSA_P256)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = _builder(subject, subject, key, validity)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(digital_signature=False, key_cert_sign=True), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return assemble(key, _sign(builder, key))


def check_root(certificate: Certificate) -> None:
    """Refuse a certificate that leaves can't be signed with.

    :raises InvalidCertificate: it is not a CA's, or has no key identifier.
    """
    extensions = x509.load_pem_x509_certificate(certificate.chain_pem).extensions
    try:
        authority = extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        authority = False
    if not authority:
        raise InvalidCertificate("the certificate is not one that others can be signed with")


def sign_leaf(root: Certificate, name: str, validity: Validity) -> Certificate:
    """Make a server certificate for ``name`` with a new P-256 key, signed by ``root``; the chain is the leaf alone."""
    issuer_key = key_from_pem(root.key_pem)
    issuer = x509.load_pem_x509_certificate(root.chain_pem)
    key = generate_key(KeyType.ECDSA_P256)
    # An empty subject makes the SAN the only name there is (RFC 5280 section 4.2.1.6: it must then be critical).
    builder = _server_builder(x509.Name([]), issuer.subject, key, [name], validity)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    key_identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_identifier), critical=False
    )
    return assemble(key, _sign(builder, issuer_key))


def _builder(subject: x509.Name, issuer: x509.Name, key: PrivateKey, validity: Validity) -> x509.CertificateBuilder:
    return x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=_utc(validity.not_before),
        not_valid_after=_utc(validity.not_after),
    )


def _server_builder(
    subject: x509.Name, issuer: x509.Name, key: PrivateKey, names: Sequence[str], validity: Validity
) -> x509.CertificateBuilder:
    builder = _builder(subject, issuer, key, validity)
    builder = builder.add_extension(_key_usage(digital_signature=True, key_cert_sign=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    if not names:
        return builder
    return builder.add_extension(to_extension(names), critical=not subject)


def _key_usage(*, digital_signature: bool, key_cert_sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=key_cert_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _sign(builder: x509.CertificateBuilder, key: PrivateKey) -> bytes:
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def _utc(seconds: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, tz=datetime.UTC)
