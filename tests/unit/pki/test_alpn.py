"""The tls-alpn-01 certificate, field by field, as a CA reads it."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ssl_cert_server.model import Certificate
from ssl_cert_server.pki.alpn import make_challenge_certificate
from ssl_cert_server.pki.x509 import parse_certificate
from tests.support.clock import START

KEY_AUTHORIZATION = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA.9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"
DIGEST = hashlib.sha256(KEY_AUTHORIZATION.encode()).digest()


def make(name: str) -> Certificate:
    return make_challenge_certificate(name, KEY_AUTHORIZATION, START)


def leaf_of(certificate: Certificate) -> x509.Certificate:
    (leaf,) = x509.load_pem_x509_certificates(certificate.chain_pem)
    return leaf


@pytest.mark.parametrize(
    ("name", "san"),
    [
        ("a.example", x509.DNSName("a.example")),
        ("A.Example", x509.DNSName("a.example")),
        ("xn--bcher-kva.example", x509.DNSName("xn--bcher-kva.example")),
        ("192.0.2.1", x509.IPAddress(ipaddress.ip_address("192.0.2.1"))),
        ("2001:db8::1", x509.IPAddress(ipaddress.ip_address("2001:db8::1"))),
    ],
)
def test_it_has_one_name_and_no_other(name: str, san: x509.GeneralName) -> None:
    extension = leaf_of(make(name)).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert list(extension.value) == [san]


def test_it_holds_the_digest_of_the_key_authorization_where_rfc_8737_wants_it() -> None:
    extensions = leaf_of(make("a.example")).extensions
    identifier = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")
    extension = extensions.get_extension_for_oid(identifier)
    assert extension.critical
    assert isinstance(extension.value, x509.UnrecognizedExtension)
    assert extension.value.value == bytes([0x04, 0x20]) + DIGEST
    assert len(extensions) == 2


def test_it_is_signed_by_itself_with_a_new_p256_key() -> None:
    first, second = make("a.example"), make("a.example")
    for certificate in (first, second):
        leaf = leaf_of(certificate)
        leaf.verify_directly_issued_by(leaf)
        key = leaf.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert isinstance(key.curve, ec.SECP256R1)
    assert first.key_pem != second.key_pem
    assert first.fingerprint != second.fingerprint


def test_old_clients_can_read_its_key() -> None:
    assert make("a.example").key_pem.startswith(b"-----BEGIN EC PRIVATE KEY-----\n")


def test_it_is_valid_for_days_before_and_after_now() -> None:
    leaf = leaf_of(make("a.example"))
    now = datetime.datetime.fromtimestamp(START, datetime.UTC)
    day = datetime.timedelta(days=1)
    assert leaf.not_valid_before_utc < now - day
    assert now + day < leaf.not_valid_after_utc


def test_it_survives_being_stored() -> None:
    certificate = make("2001:db8::1")
    assert parse_certificate(certificate.stored) == certificate
    assert certificate.names == {"2001:db8::1"}


def test_it_does_not_tell_the_key_authorization() -> None:
    certificate = make("a.example")
    der = leaf_of(certificate).public_bytes(Encoding.DER)
    for part in KEY_AUTHORIZATION.split("."):
        assert part.encode() not in der
    assert certificate.key_pem.decode() not in repr(certificate)
