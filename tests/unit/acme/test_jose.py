"""Account keys, against the RFCs' own examples."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from josepy.json_util import decode_b64jose
from josepy.jwk import JWKEC, JWKRSA

from ssl_cert_server.acme.jose import AccountKey
from ssl_cert_server.errors import InvalidCertificate


def parsed(kind: Any, jwk: dict[str, str]) -> Any:
    """``from_json`` is typed as giving the base class."""
    return kind.from_json(jwk)


# RFC 7515 appendix A.3.1.
RFC7515_EC = {
    "kty": "EC",
    "crv": "P-256",
    "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    "d": "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI",
}
RFC7638_RSA_N = (
    "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhM"
    "stn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5"
    "hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
)
P256 = AccountKey(parsed(JWKEC, RFC7515_EC).key._wrapped)
P384 = AccountKey(ec.generate_private_key(ec.SECP384R1()))
RSA = AccountKey(rsa.generate_private_key(public_exponent=65537, key_size=2048))
KEYS = pytest.mark.parametrize("key", [P256, P384, RSA], ids=["P-256", "P-384", "RSA"])


class ExampleKey(AccountKey):
    """RFC 7638's example gives the public half only."""

    def __init__(self) -> None:
        super().__init__(RSA._key)
        self._jwk = parsed(JWKRSA, {"kty": "RSA", "n": RFC7638_RSA_N, "e": "AQAB"})


def test_thumbprint_of_rfc_7638() -> None:
    assert ExampleKey().thumbprint() == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


def test_thumbprint_of_an_elliptic_key_is_of_its_public_half() -> None:
    # SHA-256 of {"crv":"P-256","kty":"EC","x":"f83O...","y":"x_FE..."}, by openssl.
    assert P256.thumbprint() == "oKIywvGUpTVTyxMQ3bwIIeQUudfr_CkLMjCE19ECD-U"


def test_key_authorization_of_rfc_8555() -> None:
    assert ExampleKey().key_authorization("evaGxfADs6pSRb2LAv9IZ") == (
        "evaGxfADs6pSRb2LAv9IZ.NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
    )


def opened(body: bytes) -> tuple[dict[str, Any], bytes, bytes, bytes]:
    jws = json.loads(body)
    assert set(jws) == {"protected", "payload", "signature"}
    assert not any("=" in part for part in jws.values())
    signed = f"{jws['protected']}.{jws['payload']}".encode()
    protected, payload, signature = (decode_b64jose(jws[part]) for part in ("protected", "payload", "signature"))
    return json.loads(protected), payload, signed, signature


def verify(key: AccountKey, signed: bytes, signature: bytes) -> None:
    """With cryptography alone; it raises where the signature is wrong."""
    public = key._key.public_key()
    if isinstance(public, rsa.RSAPublicKey):
        public.verify(signature, signed, padding.PKCS1v15(), hashes.SHA256())
        return
    half = len(signature) // 2
    assert half == {256: 32, 384: 48}[public.curve.key_size]
    der = encode_dss_signature(int.from_bytes(signature[:half]), int.from_bytes(signature[half:]))
    public.verify(der, signed, ec.ECDSA(hashes.SHA256() if half == 32 else hashes.SHA384()))


@KEYS
def test_signature_verifies_without_josepy(key: AccountKey) -> None:
    body = key.sign(b'{"a":1}', url="https://ca.test/x?y=%7e", nonce="n-1", kid="https://ca.test/account/1")
    header, payload, signed, signature = opened(body)
    algorithm = {P256: "ES256", P384: "ES384", RSA: "RS256"}[key]
    assert header == {
        "alg": algorithm, "nonce": "n-1", "url": "https://ca.test/x?y=%7e", "kid": "https://ca.test/account/1"
    }  # fmt: skip
    assert payload == b'{"a":1}'
    verify(key, signed, signature)


@KEYS
def test_jwk_in_the_header_is_public_and_complete(key: AccountKey) -> None:
    header, *_ = opened(key.sign(b"", url="https://ca.test/", nonce="n", kid=None))
    assert "kid" not in header
    assert set(header["jwk"]) == ({"kty", "n", "e"} if key is RSA else {"kty", "crv", "x", "y"})
    assert parsed(JWKRSA if key is RSA else JWKEC, header["jwk"]).key._wrapped == key._key.public_key()


def test_post_as_get_has_an_empty_payload() -> None:
    body = P256.sign(b"", url="https://ca.test/", nonce="n", kid="k")
    assert json.loads(body)["payload"] == ""


@KEYS
@pytest.mark.parametrize("format", [PrivateFormat.TraditionalOpenSSL, PrivateFormat.PKCS8])
def test_reads_both_pem_forms_and_writes_the_old_one(key: AccountKey, format: PrivateFormat) -> None:
    pem = key._key.private_bytes(Encoding.PEM, format, NoEncryption())
    again = AccountKey.from_pem(pem)
    assert again.thumbprint() == key.thumbprint()
    kind = b"RSA" if key is RSA else b"EC"
    assert again.to_pem().startswith(b"-----BEGIN %s PRIVATE KEY-----" % kind)


def test_generated_keys_are_p256_and_differ() -> None:
    one, other = AccountKey.generate(), AccountKey.generate()
    assert repr(one) == "<AccountKey ES256>"
    assert one.thumbprint() != other.thumbprint()


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (ec.generate_private_key(ec.SECP521R1()), "secp521r1"),
        (rsa.generate_private_key(public_exponent=65537, key_size=1024), "1024 bits"),
    ],
    ids=["P-521", "RSA-1024"],
)
def test_keys_that_no_ca_takes_are_refused(key: Any, words: str) -> None:
    with pytest.raises(InvalidCertificate, match=words):
        AccountKey(key)


def test_garbage_is_refused_without_being_quoted() -> None:
    with pytest.raises(InvalidCertificate) as caught:
        AccountKey.from_pem(b"-----BEGIN EC PRIVATE KEY-----\nc2VjcmV0\n-----END EC PRIVATE KEY-----\n")
    assert "c2VjcmV0" not in str(caught.value)


@KEYS
def test_no_form_of_printing_shows_key_material(key: AccountKey) -> None:
    shown = f"{key!r} {key} {[key]}"
    assert shown.count("AccountKey") == 3
    assert key.thumbprint() not in shown
    for line in key.to_pem().decode().splitlines()[1:-1]:
        assert line not in shown
