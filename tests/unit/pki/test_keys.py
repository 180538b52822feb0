"""Private keys: two PEM forms out, three in, and none of it in an error."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from ssl_cert_server.errors import InvalidCertificate
from ssl_cert_server.model import KeyType
from ssl_cert_server.pki.keys import PrivateKey, generate_key, key_from_pem, key_to_pem
from tests.support.leaks import assert_no_key

EC_KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(65537, 2048)
both_kinds = pytest.mark.parametrize("key", [EC_KEY, RSA_KEY], ids=["ec", "rsa"])

# 1.3.132.0.26, a curve over a binary field: cryptography doesn't know it.
UNKNOWN_CURVE = b"""-----BEGIN EC PRIVATE KEY-----
MG0CAQEEHV9k7+9X0XJTRAG/fhJ5L1Mn1DaTvF1xlkzDge/OoAcGBSuBBAAaoUAD
PgAEARalI2L/Lyui/ObUI5AgrH10VF+EddoLD8uGkcdBAVbrBaZWdON7oSShXBaK
UAORMqPra32EWcUj0vhX
-----END EC PRIVATE KEY-----
"""


def pem(key: PrivateKey, form: PrivateFormat) -> bytes:
    return key.private_bytes(Encoding.PEM, form, NoEncryption())


def refusal_of(content: bytes) -> InvalidCertificate | None:
    try:
        key_from_pem(content)
    except InvalidCertificate as refusal:
        return refusal
    return None


def test_a_new_ecdsa_key_is_p256() -> None:
    key = generate_key(KeyType.ECDSA_P256)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.curve.name == "secp256r1"


def test_a_new_rsa_key_has_2048_bits() -> None:
    key = generate_key(KeyType.RSA_2048)
    assert isinstance(key, rsa.RSAPrivateKey)
    assert (key.key_size, key.public_key().public_numbers().e) == (2048, 65537)


def test_an_ec_key_is_written_as_sec1() -> None:
    written = key_to_pem(EC_KEY)
    assert written.startswith(b"-----BEGIN EC PRIVATE KEY-----\n")
    assert written.endswith(b"-----END EC PRIVATE KEY-----\n")


def test_an_rsa_key_is_written_as_pkcs1() -> None:
    written = key_to_pem(RSA_KEY)
    assert written.startswith(b"-----BEGIN RSA PRIVATE KEY-----\n")
    assert written.endswith(b"-----END RSA PRIVATE KEY-----\n")


@both_kinds
@pytest.mark.parametrize("form", [PrivateFormat.TraditionalOpenSSL, PrivateFormat.PKCS8])
def test_reads_the_traditional_form_and_pkcs8(key: PrivateKey, form: PrivateFormat) -> None:
    assert key_to_pem(key_from_pem(pem(key, form))) == key_to_pem(key)


@both_kinds
def test_an_encrypted_key_is_refused(key: PrivateKey) -> None:
    for form in (PrivateFormat.TraditionalOpenSSL, PrivateFormat.PKCS8):
        with pytest.raises(InvalidCertificate, match="unencrypted"):
            key_from_pem(key.private_bytes(Encoding.PEM, form, BestAvailableEncryption(b"password")))


@pytest.mark.parametrize(
    "key",
    [
        ed25519.Ed25519PrivateKey.generate(),
        ed448.Ed448PrivateKey.generate(),
        x25519.X25519PrivateKey.generate(),
        dsa.generate_private_key(1024),
    ],
    ids=["ed25519", "ed448", "x25519", "dsa"],
)
def test_a_key_that_old_clients_cannot_parse_is_refused(
    key: ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey | x25519.X25519PrivateKey | dsa.DSAPrivateKey,
) -> None:
    content = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(InvalidCertificate, match="neither EC nor RSA") as refusal:
        key_from_pem(content)
    assert_no_key(content, refusal.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"-----BEGIN EC PRIVATE KEY-----\n-----END EC PRIVATE KEY-----\n",
        b"\xff\xfe\0",
        UNKNOWN_CURVE,
        key_to_pem(EC_KEY).replace(b"EC PRIVATE", b"RSA PRIVATE"),
        EC_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    ],
)
def test_what_is_no_private_key_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidCertificate):
        key_from_pem(content)


@both_kinds
@pytest.mark.parametrize("form", [PrivateFormat.TraditionalOpenSSL, PrivateFormat.PKCS8])
def test_no_error_quotes_a_damaged_key(key: PrivateKey, form: PrivateFormat) -> None:
    whole = pem(key, form)
    damaged = [
        whole[: len(whole) // 2],
        whole.replace(b"-----END", b"-----FIN"),
        whole[:60] + b"!" + whole[60:],
        whole[:60] + b"\xff" + whole[60:],
        whole[:60] + bytes([whole[60] ^ 1]) + whole[61:],
        whole.replace(b"M", b"N"),
        whole.replace(b"\n", b"\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n", 1),
        b"\n".join(reversed(whole.splitlines())),
    ]
    refusals = [refusal for content in damaged if (refusal := refusal_of(content))]
    assert len(refusals) >= 6
    for refusal in refusals:
        assert_no_key(whole, refusal)
        assert refusal.__cause__ is refusal.__context__ is None, "what the library said is left behind"


def test_an_rsa_key_whose_numbers_do_not_belong_together_is_refused() -> None:
    """The library would take it, and some clients too: others would refuse it in the middle of handshakes."""
    label, *lines, end = key_to_pem(RSA_KEY).splitlines()
    whole = base64.b64decode(b"".join(lines))
    for place in range(40, len(whole), 7):
        damaged = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        with pytest.raises(InvalidCertificate):
            key_from_pem(b"\n".join([label, base64.encodebytes(damaged).strip(), end]))


@both_kinds
def test_a_key_shows_nothing_of_itself(key: PrivateKey) -> None:
    assert_no_key(key_to_pem(key), key)
