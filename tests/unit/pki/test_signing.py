"""Certificates we sign ourselves, as those who verify them see them."""

from __future__ import annotations

import datetime
import ipaddress
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from ssl_cert_server.errors import InvalidCertificate
from ssl_cert_server.model import Certificate
from ssl_cert_server.pki.keys import key_from_pem
from ssl_cert_server.pki.signing import Validity, check_root, make_root, self_sign, sign_leaf
from ssl_cert_server.pki.x509 import parse_certificate
from tests.support.certs import DAY, Pair, make_pair
from tests.support.clock import START
from tests.support.leaks import assert_no_key

TEN_DAYS = Validity.days_from(START, 10)
LONG_NAME = ".".join(["a" * 63, "a" * 63, "a" * 63, "a" * 61])


def leaf_of(certificate: Certificate) -> x509.Certificate:
    return x509.load_pem_x509_certificate(certificate.chain_pem)


def verify(leaf: Certificate, root: Certificate, name: str, when: float = START) -> None:
    time = datetime.datetime.fromtimestamp(when, datetime.UTC)
    policy = PolicyBuilder().store(Store([leaf_of(root)])).time(time)
    policy.build_server_verifier(x509.DNSName(name)).verify(leaf_of(leaf), [])


def openssl_verify(folder: Path, leaf: Certificate, root: Certificate, name: str) -> subprocess.CompletedProcess[str]:
    (folder / "root.pem").write_bytes(root.chain_pem)
    (folder / "leaf.pem").write_bytes(leaf.chain_pem)
    command = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-check_ss_sig"]
    command += ["-verify_hostname", name, "-attime", str(int(START)), "-CAfile", "root.pem", "leaf.pem"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_a_validity_begins_before_now_for_clients_whose_clocks_are_behind() -> None:
    assert Validity.days_from(START + 0.9, 10) == Validity(int(START) - 300, int(START) + 10 * DAY)


def test_a_self_signed_certificate_is_a_server_certificate_of_its_own() -> None:
    certificate = self_sign(["First", "Second"], ["a.example", "*.a.example", "192.0.2.1", "2001:db8::1"], TEN_DAYS)
    leaf = leaf_of(certificate)
    assert leaf.issuer == leaf.subject
    assert [attribute.value for attribute in leaf.subject] == ["First", "Second"]
    leaf.verify_directly_issued_by(leaf)
    assert (certificate.not_before, certificate.not_after) == (TEN_DAYS.not_before, TEN_DAYS.not_after)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["a.example", "*.a.example"]
    addresses = [ipaddress.ip_address("192.0.2.1"), ipaddress.ip_address("2001:db8::1")]
    assert names.get_values_for_type(x509.IPAddress) == addresses
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert certificate == parse_certificate(certificate.stored)


def test_a_self_signed_certificate_may_name_nobody() -> None:
    leaf = leaf_of(self_sign(["Organization"], [], TEN_DAYS))
    with pytest.raises(x509.ExtensionNotFound):
        leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)


def test_every_certificate_has_a_key_and_serial_number_of_its_own() -> None:
    first, second = (self_sign(["x"], ["a.example"], TEN_DAYS) for _ in range(2))
    assert first.key_pem != second.key_pem
    assert leaf_of(first).serial_number != leaf_of(second).serial_number


def test_a_root_signs_leaves_and_nothing_else() -> None:
    root = make_root("Test CA", TEN_DAYS)
    certificate = leaf_of(root)
    assert certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "Test CA"
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.key_cert_sign
    assert not usage.digital_signature
    assert isinstance(key_from_pem(root.key_pem), ec.EllipticCurvePrivateKey)
    check_root(root)


@pytest.mark.parametrize("name", ["a.test", "localhost", "xn--mnchen-3ya.test", LONG_NAME])
def test_a_leaf_verifies_against_its_root(name: str) -> None:
    root = make_root("Test CA", TEN_DAYS)
    leaf = sign_leaf(root, name, TEN_DAYS)
    verify(leaf, root, name)
    assert leaf.names == {name}
    assert len(x509.load_pem_x509_certificates(leaf.chain_pem)) == 1, "the root is with the clients already"


def test_openssl_accepts_a_leaf_under_its_strict_rules(tmp_path: Path) -> None:
    root = make_root("Test CA", TEN_DAYS)
    leaf = sign_leaf(root, "a.test", TEN_DAYS)
    accepted = openssl_verify(tmp_path, leaf, root, "a.test")
    assert accepted.returncode == 0, accepted.stdout + accepted.stderr
    assert openssl_verify(tmp_path, leaf, root, "b.test").returncode != 0
    assert openssl_verify(tmp_path, leaf, make_root("Test CA", TEN_DAYS), "a.test").returncode != 0


def test_a_leaf_proves_nothing_for_other_names_times_and_roots() -> None:
    root = make_root("Test CA", TEN_DAYS)
    leaf = sign_leaf(root, "a.test", Validity.days_from(START, 5))
    with pytest.raises(VerificationError):
        verify(leaf, root, "b.test")
    with pytest.raises(VerificationError):
        verify(leaf, root, "a.test", START + 6 * DAY)
    with pytest.raises(VerificationError):
        verify(leaf, make_root("Test CA", TEN_DAYS), "a.test")


def test_a_leaf_cannot_sign() -> None:
    root = make_root("Test CA", TEN_DAYS)
    with pytest.raises(InvalidCertificate, match="can be signed with"):
        check_root(sign_leaf(root, "a.test", TEN_DAYS))


@pytest.mark.parametrize(
    "certificate",
    [
        make_pair(),
        make_pair(extensions=[x509.BasicConstraints(ca=True, path_length=None)]),
    ],
    ids=["version 1 style", "no key identifier"],
)
def test_check_root_refuses_what_lacks_a_roots_extensions(certificate: Pair) -> None:

    with pytest.raises(InvalidCertificate, match="can be signed with"):
        check_root(parse_certificate(certificate.stored))


def test_nothing_made_here_shows_its_key() -> None:
    root = make_root("Test CA", TEN_DAYS)
    leaf, own = sign_leaf(root, "a.test", TEN_DAYS), self_sign(["x"], [], TEN_DAYS)
    for certificate in (root, leaf, own):
        assert_no_key(certificate.key_pem, root, leaf, own)
