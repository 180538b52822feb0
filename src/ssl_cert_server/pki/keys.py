"""Private keys in the two PEM forms that every deployed client parses."""

from __future__ import annotations

from collections.abc import Mapping

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from ssl_cert_server.errors import InvalidCertificate
from ssl_cert_server.model import KeyFamily, KeyType

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

_CURVES: Mapping[KeyType, ec.EllipticCurve] = {KeyType.ECDSA_P256: ec.SECP256R1(), KeyType.ECDSA_P384: ec.SECP384R1()}
_RSA_BITS: Mapping[KeyType, int] = {KeyType.RSA_2048: 2048, KeyType.RSA_3072: 3072, KeyType.RSA_4096: 4096}


def generate_key(key_type: KeyType) -> PrivateKey:
    """Make a new private key. RSA takes a tenth of a second and more: call it in a thread."""
    if key_type in _RSA_BITS:
        return rsa.generate_private_key(public_exponent=65537, key_size=_RSA_BITS[key_type])
    return ec.generate_private_key(_CURVES[key_type])


def family_of(key: PrivateKey) -> KeyFamily:
    """Tell which family a key belongs to."""
    return KeyFamily.RSA if isinstance(key, rsa.RSAPrivateKey) else KeyFamily.ECDSA


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
        # The library's own check of an RSA key takes 30 ms and more, most of it to see that the primes are prime: that
        # is too long for the event loop.
        key = serialization.load_pem_private_key(pem, password=None, unsafe_skip_rsa_key_validation=True)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    return None if isinstance(key, rsa.RSAPrivateKey) and not _is_whole(key) else key


def _is_whole(key: rsa.RSAPrivateKey) -> bool:
    """Tell whether all the numbers belong together, for a file may be corrupt (RFC 8017 section 3.2)."""
    numbers = key.private_numbers()
    public, p, q, d = numbers.public_numbers, numbers.p, numbers.q, numbers.d
    return (
        min(p, q) > 2
        and p * q == public.n
        and all(d * public.e % (prime - 1) == 1 for prime in (p, q))
        and (numbers.dmp1, numbers.dmq1) == (d % (p - 1), d % (q - 1))
        and numbers.iqmp * q % p == 1
    )
