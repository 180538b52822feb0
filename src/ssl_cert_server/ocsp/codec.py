"""OCSP requests and responses as bytes: pure (RFC 6960, profile of RFC 9919)."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from ssl_cert_server.errors import MalformedStaple, ResponderRefused

_UNPARSABLE = (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.InvalidVersion)
_MOST_SIGNERS = 4
"""Certificates in a response that are looked at: each costs the verification of a signature."""


class CertIdHash(enum.StrEnum):
    """By which hash a request names the issuer; RFC 9919 wants SHA-256, older responders know SHA-1 only."""

    SHA256 = "sha256"
    SHA1 = "sha1"


class OcspStatus(enum.StrEnum):
    """What a responder says of a certificate (RFC 6960 section 2.2)."""

    GOOD = "good"
    REVOKED = "revoked"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A responder's verified word, which holds from ``this_update`` up to ``next_update`` (Unix seconds)."""

    status: OcspStatus
    this_update: float
    next_update: float


_HASHES: dict[CertIdHash, hashes.HashAlgorithm] = {
    CertIdHash.SHA256: hashes.SHA256(),
    CertIdHash.SHA1: hashes.SHA1(),  # noqa: S303 - it names the issuer; it protects nothing
}
_STATUSES = {
    ocsp.OCSPCertStatus.GOOD: OcspStatus.GOOD,
    ocsp.OCSPCertStatus.REVOKED: OcspStatus.REVOKED,
    ocsp.OCSPCertStatus.UNKNOWN: OcspStatus.UNKNOWN,
}


def make_request(leaf: x509.Certificate, issuer: x509.Certificate, algorithm: CertIdHash) -> bytes:
    """Ask about one certificate, in DER. Without a nonce, so that caches may answer (RFC 9919 section 3.1)."""
    return _request(leaf, issuer, _HASHES[algorithm]).public_bytes(Encoding.DER)


def check_response(der: bytes, leaf: x509.Certificate, issuer: x509.Certificate, now: float) -> Verdict:
    """Give what a response says of ``leaf``, after everything about it was verified (RFC 6960 section 3.2).

    :raises ResponderRefused: it is no answer but an error; the message names it.
    :raises MalformedStaple: it can't be parsed, is about another certificate, does not hold at ``now`` (Unix
        seconds), or was signed by somebody who may not.
    """
    try:
        response = ocsp.load_der_ocsp_response(der)
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            raise ResponderRefused(f"the responder refuses: {response.response_status.name.lower()}")
        single = _about(response, leaf, issuer)
        verdict = Verdict(
            _STATUSES[single.certificate_status], _seconds(single.this_update_utc), _seconds(single.next_update_utc)
        )
        _check_time(verdict, now)
        _check_signature(response, issuer, now)
    except _UNPARSABLE as error:
        raise MalformedStaple(f"the response can't be parsed: {type(error).__name__}") from error
    return verdict


def _request(leaf: x509.Certificate, issuer: x509.Certificate, algorithm: hashes.HashAlgorithm) -> ocsp.OCSPRequest:
    return ocsp.OCSPRequestBuilder().add_certificate(leaf, issuer, algorithm).build()


def _about(response: ocsp.OCSPResponse, leaf: x509.Certificate, issuer: x509.Certificate) -> ocsp.OCSPSingleResponse:
    for single in response.responses:
        if single.serial_number == leaf.serial_number:
            wanted = _request(leaf, issuer, single.hash_algorithm)
            if (single.issuer_name_hash, single.issuer_key_hash) == (wanted.issuer_name_hash, wanted.issuer_key_hash):
                return single
    raise MalformedStaple("the response is about another certificate")


def _check_time(verdict: Verdict, now: float) -> None:
    if verdict.next_update <= 0:
        raise MalformedStaple("the response does not tell until when it holds (nextUpdate)")
    if now < verdict.this_update:
        raise MalformedStaple(f"the response is from the future (thisUpdate {_time(verdict.this_update)})")
    if now >= verdict.next_update:
        raise MalformedStaple(f"the response is out of date (nextUpdate {_time(verdict.next_update)})")


def _check_signature(response: ocsp.OCSPResponse, issuer: x509.Certificate, now: float) -> None:
    if any(_signed_by(signer, response) for signer in _signers(response, issuer, now)):
        return
    raise MalformedStaple("the response is signed neither by the issuer nor by somebody it delegated that to")


def _signers(response: ocsp.OCSPResponse, issuer: x509.Certificate, now: float) -> Iterator[x509.Certificate]:
    yield issuer
    for certificate in response.certificates[:_MOST_SIGNERS]:
        if _is_delegate(certificate, issuer, now):
            yield certificate


def _is_delegate(certificate: x509.Certificate, issuer: x509.Certificate, now: float) -> bool:
    """Tell whether the issuer itself made this certificate for signing responses (RFC 6960 section 4.2.2.2)."""
    if not _seconds(certificate.not_valid_before_utc) <= now < _seconds(certificate.not_valid_after_utc):
        return False
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        certificate.verify_directly_issued_by(issuer)
    except (x509.ExtensionNotFound, InvalidSignature, *_UNPARSABLE):
        return False
    return ExtendedKeyUsageOID.OCSP_SIGNING in usage


def _signed_by(signer: x509.Certificate, response: ocsp.OCSPResponse) -> bool:
    key, signature, signed = signer.public_key(), response.signature, response.tbs_response_bytes
    algorithm = response.signature_hash_algorithm
    try:
        if isinstance(key, Ed25519PublicKey | Ed448PublicKey):
            key.verify(signature, signed)
        elif algorithm is None:
            return False
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, signed, padding.PKCS1v15(), algorithm)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, signed, ec.ECDSA(algorithm))
        else:
            return False
    except InvalidSignature:
        return False
    return True


def _seconds(moment: datetime | None) -> float:
    return moment.timestamp() if moment is not None else 0.0


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
