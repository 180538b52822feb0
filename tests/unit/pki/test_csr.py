"""Certificate signing requests."""

from __future__ import annotations

import pytest
from cryptography import x509

from ssl_cert_server.model import KeyType
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
