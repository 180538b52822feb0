"""The account key and what it signs (RFC 7515, 7517, 7638; RFC 8555 sections 6.2 and 8.1)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from josepy.json_util import encode_b64jose
from josepy.jwa import ES256, ES384, HS256, RS256, JWASignature
from josepy.jwk import JWKEC, JWKRSA

from ssl_cert_server.errors import InvalidCertificate
from ssl_cert_server.model import KeyType
from ssl_cert_server.pki.keys import PrivateKey, generate_key, key_from_pem, key_to_pem

_EC_ALGORITHMS = {"secp256r1": ES256, "secp384r1": ES384}
_MIN_RSA_BITS = 2048


class AccountKey:
    """The private key that an ACME account is known by."""

    __slots__ = ("_algorithm", "_jwk", "_key")

    def __init__(self, key: PrivateKey) -> None:
        """:raises InvalidCertificate: a curve or size that CAs don't take: P-256, P-384 and RSA from 2048 bits are."""
        self._key = key
        self._algorithm = _algorithm(key)
        public = key.public_key()
        self._jwk = JWKRSA(key=public) if isinstance(public, rsa.RSAPublicKey) else JWKEC(key=public)

    @classmethod
    def generate(cls) -> AccountKey:
        """Make a P-256 key: every CA takes it, and it signs in microseconds."""
        return cls(generate_key(KeyType.ECDSA_P256))

    @classmethod
    def from_pem(cls, pem: bytes) -> AccountKey:
        """Decode SEC 1, PKCS #1 or PKCS #8.

        :raises InvalidCertificate: unparsable, or not a key for an account.
        """
        return cls(key_from_pem(pem))

    def __repr__(self) -> str:
        # Not the thumbprint either: with a token it makes a key authorization.
        return f"<AccountKey {self._algorithm.name}>"

    def to_pem(self) -> bytes:
        """Encode as SEC 1 or PKCS #1."""
        return key_to_pem(self._key)

    def thumbprint(self) -> str:
        """Base64url of the public key's SHA-256 thumbprint (RFC 7638)."""
        return encode_b64jose(self._jwk.thumbprint(hashes.SHA256))

    def key_authorization(self, token: str) -> str:
        """What proves to the CA that this account controls a name (RFC 8555 section 8.1). A secret until used."""
        return f"{token}.{self.thumbprint()}"

    def public_jwk(self) -> dict[str, Any]:
        """Give the public half (RFC 7517)."""
        jwk: dict[str, Any] = self._jwk.to_json()
        return jwk

    def sign(self, payload: bytes, *, url: str, nonce: str | None, kid: str | None) -> bytes:
        """Make a request's body: a flattened JSON JWS (RFC 8555 section 6.2).

        ``kid`` is the account's URL; None puts the public key there instead, for newAccount. An empty ``payload`` is
        POST-as-GET. What goes into another request as its payload has no ``nonce``.
        """
        header: dict[str, Any] = {"alg": self._algorithm.name, "url": url}
        if nonce is not None:
            header["nonce"] = nonce
        header |= {"jwk": self.public_jwk()} if kid is None else {"kid": kid}
        return json.dumps(_jws(header, payload, lambda signed: self._algorithm.sign(self._key, signed))).encode()


def sign_by_hmac(payload: bytes, secret: bytes, *, kid: str, url: str) -> dict[str, str]:
    """Make the JWS that binds an account to an external one (RFC 8555 section 7.3.4)."""
    return _jws({"alg": HS256.name, "kid": kid, "url": url}, payload, lambda signed: HS256.sign(secret, signed))


def _jws(header: dict[str, Any], payload: bytes, sign: Callable[[bytes], bytes]) -> dict[str, str]:
    protected = encode_b64jose(json.dumps(header).encode())
    encoded = encode_b64jose(payload)
    signature = sign(f"{protected}.{encoded}".encode())
    return {"protected": protected, "payload": encoded, "signature": encode_b64jose(signature)}


def _algorithm(key: PrivateKey) -> JWASignature:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        algorithm = _EC_ALGORITHMS.get(key.curve.name)
        if algorithm is None:
            raise InvalidCertificate(f"an account key on curve {key.curve.name}: use P-256 or P-384")
        return algorithm
    if key.key_size < _MIN_RSA_BITS:
        raise InvalidCertificate(f"an RSA account key of {key.key_size} bits: use {_MIN_RSA_BITS} or more")
    return RS256
