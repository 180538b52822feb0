"""Certificate signing requests."""

from __future__ import annotations

import pytest
from cryptography import x509

from ssl_cert_server.model import KeyType
from ssl_cert_server.pki.alternative_names import names_of
from ssl_cert_server.pki.csr import make_csr
from ssl_cert_server.pki.keys import generate_key


@pytest.mark.parametrize("key_type", KeyType)
def test_holds_the_names_alone_and_is_signed_by_the_key(key_type: KeyType) -> None:
    key = generate_key(key_type)
    csr = x509.load_der_x509_csr(make_csr(key, ["example.com", "*.example.com", "xn--mnchen-3ya.de"]))
    assert csr.is_signature_valid
    assert csr.public_key() == key.public_key()
    assert not csr.subject, "CAs ignore or refuse common names over 64 characters"
    names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["example.com", "*.example.com", "xn--mnchen-3ya.de"]
    assert len(names) == 3


def test_takes_the_longest_name_there_is() -> None:
    name = ".".join(["a" * 63, "a" * 63, "a" * 63, "a" * 61])
    csr = x509.load_der_x509_csr(make_csr(generate_key(KeyType.ECDSA_P256), [name]))
    names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [name]


@pytest.mark.parametrize("key_type", KeyType)
def test_the_hash_suits_the_key(key_type: KeyType) -> None:
    csr = x509.load_der_x509_csr(make_csr(generate_key(key_type), ["example.com"]))
    assert csr.signature_hash_algorithm is not None
    assert csr.signature_hash_algorithm.name == ("sha384" if key_type is KeyType.ECDSA_P384 else "sha256")


def test_addresses_stand_there_as_addresses() -> None:
    names = ["example.com", "192.0.2.1", "2001:db8::1"]
    csr = x509.load_der_x509_csr(make_csr(generate_key(KeyType.ECDSA_P256), names))
    found = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert found.get_values_for_type(x509.DNSName) == ["example.com"]
    assert [str(address) for address in found.get_values_for_type(x509.IPAddress)] == ["192.0.2.1", "2001:db8::1"]
    assert names_of(csr.extensions) == set(names)
