"""Private keys in the two PEM forms that every deployed client parses."""

from __future__ import annotations

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from ssl_cert_server.errors import InvalidCertificate
from ssl_cert_server.model import KeyType

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def generate_key(key_type: KeyType) -> PrivateKey:
    """Make a new private key. RSA takes a tenth of a second and more: call it in a thread."""
    if key_type is KeyType.RSA_2048:
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return ec.generate_private_key(ec.SECP256R1())


def key_to_pem(key: PrivateKey) -> bytes:
    """Encode as SEC 1 (``EC PRIVATE KEY``) or PKCS #1 (``RSA PRIVATE KEY``): old clients parse these two only."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )


def key_from_pem(pem: bytes) -> PrivateKey:
    """Decode SEC 1, PKCS #1 or PKCS #8.

    :raises InvalidCertificate: unparsable, encrypted, or neither EC nor RSA; the message never holds the key.
    """
    key = _load(pem)
    if key is None:
        raise InvalidCertificate("the private key is not PEM of an unencrypted EC or RSA key")
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise InvalidCertificate("the private key is neither EC nor RSA: clients could not parse it")
    return key


def _load(pem: bytes) -> PrivateKeyTypes | None:
    # The library's exception may quote what it read: it is left behind here, and hangs on no other as its context.
    try:
        return serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
