"""From PEM to a certificate that is known to be usable."""

from __future__ import annotations

import base64
import hashlib
import ipaddress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtensionOID

from ssl_cert_server.errors import InvalidCertificate
from ssl_cert_server.model import OpenOrder
from ssl_cert_server.pki.keys import key_from_pem
from ssl_cert_server.pki.x509 import assemble, check_covers, check_usable, parse_certificate
from tests.support.certs import DAY, Pair, make_pair
from tests.support.clock import START
from tests.support.leaks import assert_no_key

INTERMEDIATE = make_pair()
LEAF = make_pair(["www.example.com"], signer=INTERMEDIATE)
OTHER = make_pair(["www.example.com"])


def as_pem(der: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"


def patched(old: str, new: str, pair: Pair = OTHER) -> bytes:
    """The certificate's PEM with some DER (in hex) replaced."""
    der = pair.certificate.public_bytes(Encoding.DER)
    assert bytes.fromhex(old) in der
    return as_pem(der.replace(bytes.fromhex(old), bytes.fromhex(new)))


def test_reads_what_the_predecessor_stored() -> None:
    certificate = parse_certificate(LEAF.key_pem + LEAF.pem + INTERMEDIATE.pem)
    assert certificate.key_pem == LEAF.key_pem
    assert certificate.chain_pem == LEAF.pem + INTERMEDIATE.pem
    assert certificate.stored == LEAF.key_pem + LEAF.pem + INTERMEDIATE.pem
    assert certificate.fingerprint == hashlib.sha1(LEAF.certificate.public_bytes(Encoding.DER)).hexdigest()
    assert certificate.not_before == int(START - DAY)
    assert certificate.not_after == int(START + 90 * DAY)
    assert certificate.lifetime == 91 * DAY
    assert certificate.names == {"www.example.com"}


@pytest.mark.parametrize(
    "content",
    [
        LEAF.pem + INTERMEDIATE.pem + LEAF.key_pem,
        LEAF.pem + LEAF.key_pem + INTERMEDIATE.pem,
        LEAF.pkcs8 + LEAF.pem + INTERMEDIATE.pem,
        (LEAF.key_pem + LEAF.pem + INTERMEDIATE.pem).replace(b"\n", b"\r\n"),
        LEAF.key_pem
        + b"\n\nsubject=CN=test\nissuer=CN=test\n"
        + LEAF.pem
        + b"\n# the intermediate\n"
        + INTERMEDIATE.pem,
        (LEAF.key_pem + LEAF.pem + INTERMEDIATE.pem).rstrip(b"\n"),
        b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
        + LEAF.key_pem
        + LEAF.pem
        + INTERMEDIATE.pem,
    ],
    ids=[
        "key last",
        "key in the middle",
        "PKCS #8",
        "CR LF",
        "words between",
        "no newline at the end",
        "EC PARAMETERS",
    ],
)
def test_files_of_any_order_and_style_come_out_alike(content: bytes) -> None:
    assert parse_certificate(content) == parse_certificate(LEAF.key_pem + LEAF.pem + INTERMEDIATE.pem)


def test_an_rsa_certificate_comes_out_with_a_pkcs1_key() -> None:
    pair = make_pair(["rsa.example.com"], key=rsa.generate_private_key(65537, 2048))
    certificate = parse_certificate(pair.pkcs8 + pair.pem)
    assert certificate.key_pem.startswith(b"-----BEGIN RSA PRIVATE KEY-----")
    assert certificate.stored == pair.stored


def test_names_are_lower_case_and_wildcards_stay() -> None:
    pair = make_pair(["*.Example.COM", "EXAMPLE.com"])
    assert parse_certificate(pair.stored).names == {"*.example.com", "example.com"}


def test_the_common_name_is_no_name() -> None:
    assert parse_certificate(make_pair().stored).names == frozenset()


def test_addresses_are_names_in_their_one_spelling() -> None:
    addresses = [x509.IPAddress(ipaddress.ip_address(text)) for text in ("192.0.2.1", "2001:DB8:0:0::1")]
    others = [x509.DNSName("a.example"), x509.RFC822Name("b@a.example"), x509.UniformResourceIdentifier("https://c/")]
    pair = make_pair(extensions=[x509.SubjectAlternativeName([*addresses, *others])])
    certificate = parse_certificate(pair.stored)
    assert certificate.names == {"192.0.2.1", "2001:db8::1", "a.example"}
    check_covers(certificate, "2001:db8::1")
    with pytest.raises(InvalidCertificate, match=r"does not cover 192\.0\.2\.2"):
        check_covers(certificate, "192.0.2.2")


def test_an_address_that_stands_there_as_a_host_name_is_none() -> None:
    """No client takes it for the address."""
    assert parse_certificate(make_pair(["192.0.2.1", "2001:db8::1", "a.example"]).stored).names == {"a.example"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no private key"),
        (b"garbage \xff\0", "no private key"),
        (LEAF.pem, "no private key"),
        (LEAF.key_pem[:-20] + LEAF.pem, "no private key"),
        (LEAF.key_pem, "chain can't be parsed"),
        (LEAF.key_pem + b"-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n", "chain can't be parsed"),
        (LEAF.key_pem + b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "chain can't be parsed"),
        (LEAF.key_pem + LEAF.pem[:-30], "chain can't be parsed"),
        (LEAF.key_pem + LEAF.pem + INTERMEDIATE.pem[:300], "cut off"),
        (LEAF.key_pem + LEAF.pem + INTERMEDIATE.pem[:15], "cut off"),
        (OTHER.key_pem + LEAF.pem + INTERMEDIATE.pem, "does not belong"),
        (LEAF.key_pem + INTERMEDIATE.pem + LEAF.pem, "does not belong"),
        (OTHER.key_pem + patched("a003020102", "a003020107"), "chain can't be parsed"),
        (OTHER.key_pem + patched("2a8648ce3d030107", "2a8648ce3d030105"), "chain can't be parsed"),
        (OTHER.key_pem + patched("2a8648ce3d0201", "2a8648ce3d0209"), "chain can't be parsed"),
    ],
    ids=[
        "nothing",
        "garbage",
        "no key",
        "key cut off",
        "no certificate",
        "no base64",
        "no DER",
        "leaf cut off",
        "intermediate cut off",
        "intermediate cut off at its begin",
        "another key",
        "leaf not first",
        "unknown version",
        "unknown curve",
        "unknown kind of key",
    ],
)
def test_what_cannot_be_used_is_refused_in_our_words(content: bytes, reason: str) -> None:
    with pytest.raises(InvalidCertificate, match=reason) as refusal:
        parse_certificate(content)
    assert_no_key(LEAF.key_pem, refusal.value)
    assert_no_key(OTHER.key_pem, refusal.value)


def test_an_extension_given_twice_is_refused() -> None:
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.99"), b"\x30\x00")
    pair = make_pair(["a.example.com"], extensions=[unknown])
    with pytest.raises(InvalidCertificate, match="Duplicate"):
        assemble(key_from_pem(pair.key_pem), patched("551d63", "551d11", pair))


@pytest.mark.parametrize("der", ["3004a5028100", "6a756e6b"], ids=["EDIPartyName", "junk"])
def test_alternative_names_that_cannot_be_read_are_refused(der: str) -> None:
    names = x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, bytes.fromhex(der))
    with pytest.raises(InvalidCertificate, match="chain can't be parsed"):
        parse_certificate(make_pair(extensions=[names]).stored)


def test_an_encrypted_key_is_refused() -> None:
    encrypted = LEAF.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    with pytest.raises(InvalidCertificate, match="unencrypted"):
        parse_certificate(encrypted + LEAF.pem)


def test_an_ed25519_key_is_refused() -> None:
    key = ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(InvalidCertificate, match="neither EC nor RSA"):
        parse_certificate(key + LEAF.pem)


def test_with_two_keys_in_the_file_the_first_counts_and_the_second_goes_nowhere() -> None:
    certificate = parse_certificate(LEAF.key_pem + LEAF.pem + OTHER.key_pem)
    assert certificate.key_pem == LEAF.key_pem
    assert certificate.chain_pem == LEAF.pem


def test_usable_from_the_first_second_to_the_last() -> None:
    certificate = parse_certificate(make_pair(start=START, end=START + 100).stored)
    check_usable(certificate, START)
    check_usable(certificate, START + 99.9)
    with pytest.raises(InvalidCertificate, match="not valid yet"):
        check_usable(certificate, START - 0.1)
    with pytest.raises(InvalidCertificate, match="expired"):
        check_usable(certificate, START + 100)


def test_covers_its_names_and_no_others() -> None:
    certificate = parse_certificate(make_pair(["example.com", "*.example.com"]).stored)
    check_covers(certificate, "example.com")
    check_covers(certificate, "www.example.com")
    with pytest.raises(InvalidCertificate, match=r"does not cover a\.b\.example\.com"):
        check_covers(certificate, "a.b.example.com")


def test_no_value_shows_its_private_key() -> None:
    certificate = parse_certificate(LEAF.stored)
    order = OpenOrder("https://ca.example/dir", "https://ca.example/order/1", LEAF.key_pem.decode())
    assert_no_key(LEAF.key_pem, certificate, order, [certificate], {"order": order})
