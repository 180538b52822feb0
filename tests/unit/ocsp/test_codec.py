"""Nothing that a responder sends is believed before everything about it was verified."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from ssl_cert_server.errors import MalformedStaple, OcspError, ResponderRefused
from ssl_cert_server.model import Certificate
from ssl_cert_server.ocsp.codec import CertIdHash, OcspStatus, Verdict, check_response, make_request
from tests.support.certs import DAY, Key, Pair
from tests.support.clock import START
from tests.support.ocsp_ca import HOUR, OcspCa, make_ca, refusal

CA = OcspCa()
LEAF = CA.leaf("a.com")


def chain(certificate: Certificate) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(certificate.chain_pem)


def check(response: bytes, certificate: Certificate = LEAF, ca: OcspCa = CA, now: float = START) -> Verdict:
    return check_response(response, chain(certificate)[0], ca.pair.certificate, now)


@pytest.mark.parametrize(("algorithm", "kind"), [(CertIdHash.SHA256, hashes.SHA256), (CertIdHash.SHA1, hashes.SHA1)])
def test_a_request_names_one_certificate_and_holds_no_nonce(
    algorithm: CertIdHash, kind: type[hashes.HashAlgorithm]
) -> None:
    leaf, issuer = chain(LEAF)
    request = ocsp.load_der_ocsp_request(make_request(leaf, issuer, algorithm))
    assert request.serial_number == leaf.serial_number
    assert isinstance(request.hash_algorithm, kind)
    assert len(request.extensions) == 0


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (ocsp.OCSPCertStatus.GOOD, OcspStatus.GOOD),
        (ocsp.OCSPCertStatus.REVOKED, OcspStatus.REVOKED),
        (ocsp.OCSPCertStatus.UNKNOWN, OcspStatus.UNKNOWN),
    ],
)
@pytest.mark.parametrize("algorithm", [hashes.SHA1(), hashes.SHA256(), hashes.SHA384()])
def test_a_right_response_is_believed(
    said: ocsp.OCSPCertStatus, status: OcspStatus, algorithm: hashes.HashAlgorithm
) -> None:
    assert check(CA.response(LEAF, status=said, algorithm=algorithm)) == Verdict(status, START - HOUR, START + 7 * DAY)


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
    ],
    ids=["rsa", "p256", "p384"],
)
def test_whatever_key_the_issuer_has(key: Key) -> None:
    ca = OcspCa(make_ca(key=key))
    leaf = ca.leaf("a.com")
    assert check(ca.response(leaf), leaf, ca).status is OcspStatus.GOOD


def test_a_signer_that_the_issuer_delegated_to_is_believed() -> None:
    assert check(CA.response(LEAF, signer=CA.delegate())).status is OcspStatus.GOOD


OTHER = OcspCa(make_ca("CA"))  # of the same name


@pytest.mark.parametrize(
    ("response", "words"),
    [
        (CA.response(CA.leaf("a.com")), "about another certificate"),
        (CA.response(LEAF, issuer=OTHER.pair), "about another certificate"),
        (OTHER.response(LEAF, issuer=CA.pair), "signed neither"),
        (CA.response(LEAF, this_update=START + 1), "from the future"),
        (CA.response(LEAF, next_update=START), "out of date"),
        (CA.response(LEAF, next_update=None), "nextUpdate"),
        (CA.response(LEAF, signer=OTHER.delegate()), "signed neither"),
        (CA.response(LEAF, signer=OTHER.pair), "signed neither"),
        (CA.response(LEAF, signer=CA.delegate(ExtendedKeyUsageOID.SERVER_AUTH)), "signed neither"),
        (CA.response(LEAF, signer=CA.delegate(end=START)), "signed neither"),
        (CA.response(LEAF, signer=CA.delegate(), with_signer=False), "signed neither"),
        (b"", "can't be parsed"),
        (b"<html>", "can't be parsed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "response",
)
def test_a_wrong_one_is_not(response: bytes, words: str) -> None:
    with pytest.raises(MalformedStaple, match=words):
        check(response)


def test_a_leaf_of_the_issuer_that_may_not_sign_responses_is_not_believed() -> None:
    leaf = CA.leaf("evil.com", key=ec.generate_private_key(ec.SECP256R1()))
    key = leaf.key_pem
    signer = Pair(_key(key), chain(leaf)[0])
    with pytest.raises(MalformedStaple, match="signed neither"):
        check(CA.response(LEAF, signer=signer))


def _key(pem: bytes) -> Key:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key(pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


@pytest.mark.parametrize(
    "status",
    [status for status in ocsp.OCSPResponseStatus if status is not ocsp.OCSPResponseStatus.SUCCESSFUL],
    ids=lambda status: status.name,
)
def test_a_refusal_is_told_by_its_name(status: ocsp.OCSPResponseStatus) -> None:
    with pytest.raises(ResponderRefused, match=status.name.lower()):
        check(refusal(status))


def test_edwards_curves_sign_too() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING])
    name = x509.Name([])
    certificate = (
        x509.CertificateBuilder(CA.pair.certificate.subject, name, key.public_key(), 7)
        .not_valid_before(CA.pair.certificate.not_valid_before_utc)
        .not_valid_after(CA.pair.certificate.not_valid_after_utc)
        .add_extension(usage, critical=False)
        .sign(CA.pair.key, hashes.SHA256())
    )
    leaf, issuer = chain(LEAF)
    moment = CA.pair.certificate.not_valid_before_utc
    response = (
        ocsp.OCSPResponseBuilder()
        .add_response(
            leaf,
            issuer,
            hashes.SHA256(),
            ocsp.OCSPCertStatus.GOOD,
            moment,
            CA.pair.certificate.not_valid_after_utc,
            None,
            None,
        )
        .responder_id(ocsp.OCSPResponderEncoding.HASH, certificate)
        .certificates([certificate])
        .sign(key, None)
    )
    assert check(response.public_bytes(Encoding.DER)).status is OcspStatus.GOOD


RIGHT = CA.response(LEAF, signer=CA.delegate())


@given(at=st.integers(0, len(RIGHT) - 1), byte=st.integers(0, 255), cut=st.booleans())
def test_one_wrong_byte_is_refused_or_changes_nothing(at: int, byte: int, cut: bool) -> None:
    broken = RIGHT[:at] if cut else RIGHT[:at] + bytes([byte]) + RIGHT[at + 1 :]
    try:
        verdict = check(broken)
    except OcspError:
        return
    assert verdict == check(RIGHT)


@given(st.binary(max_size=400))
def test_garbage_is_refused_without_a_crash(garbage: bytes) -> None:
    with pytest.raises(OcspError):
        check(garbage)
