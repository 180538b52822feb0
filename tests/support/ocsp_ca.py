"""A CA whose certificates name a responder, and what that responder may say: right, and wrong in every way."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID

from ssl_cert_server.model import Certificate
from ssl_cert_server.pki.keys import key_from_pem
from ssl_cert_server.pki.x509 import assemble
from tests.support.certs import DAY, Key, Pair, make_pair
from tests.support.clock import START

RESPONDER = "http://ocsp.ca.test"
HOUR = 3600.0


def make_ca(subject: str = "CA", key: Key | None = None, start: float = START - 100 * DAY) -> Pair:
    """A CA's own pair, with the identifier of its key."""
    own_key = key or ec.generate_private_key(ec.SECP256R1())
    identifier = x509.SubjectKeyIdentifier.from_public_key(own_key.public_key())
    extensions = [x509.BasicConstraints(ca=True, path_length=None), identifier]
    return make_pair(key=own_key, subject=subject, start=start, end=start + 3650 * DAY, extensions=extensions)


def access(method: x509.ObjectIdentifier, *urls: str) -> list[x509.AccessDescription]:
    """Entries of authority information access."""
    return [x509.AccessDescription(method, x509.UniformResourceIdentifier(url)) for url in urls]


@dataclass
class OcspCa:
    """Issues leaves that name ``urls`` as responders, and ``issuer_urls`` as places of its own certificate."""

    pair: Pair = field(default_factory=make_ca)
    urls: Sequence[str] = (RESPONDER,)
    issuer_urls: Sequence[str] = ()

    def leaf(
        self,
        *names: str,
        with_chain: bool = True,
        start: float = START - HOUR,
        end: float = START + 90 * DAY,
        key: Key | None = None,
    ) -> Certificate:
        """A certificate with its key, and the CA's in its chain if wanted."""
        entries = access(AuthorityInformationAccessOID.OCSP, *self.urls)
        entries += access(AuthorityInformationAccessOID.CA_ISSUERS, *self.issuer_urls)
        extensions: list[x509.ExtensionType] = [
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self.pair.key.public_key())
        ]
        if entries:
            extensions.append(x509.AuthorityInformationAccess(entries))
        made = make_pair(names, signer=self.pair, extensions=extensions, start=start, end=end, key=key)
        chain = made.pem + (self.pair.pem if with_chain else b"")
        return assemble(key_from_pem(made.key_pem), chain)

    def delegate(
        self, *usages: x509.ObjectIdentifier, start: float = START - DAY, end: float = START + 30 * DAY
    ) -> Pair:
        """A pair of the CA's for signing responses, or for other ``usages``."""
        usage = x509.ExtendedKeyUsage(usages or (ExtendedKeyUsageOID.OCSP_SIGNING,))
        return make_pair(signer=self.pair, subject="responder", extensions=[usage], start=start, end=end)

    def response(
        self,
        certificate: Certificate,
        *,
        status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD,
        this_update: float = START - HOUR,
        next_update: float | None = START + 7 * DAY,
        algorithm: hashes.HashAlgorithm | None = None,
        signer: Pair | None = None,
        issuer: Pair | None = None,
        with_signer: bool = True,
    ) -> bytes:
        """A response about a certificate, signed by the CA or ``signer``; ``issuer`` is whom the CertID names."""
        leaf = x509.load_pem_x509_certificates(certificate.chain_pem)[0]
        by = signer or self.pair
        revoked = status is ocsp.OCSPCertStatus.REVOKED
        builder = (
            ocsp.OCSPResponseBuilder()
            .add_response(
                cert=leaf,
                issuer=(issuer or self.pair).certificate,
                algorithm=algorithm or hashes.SHA256(),
                cert_status=status,
                this_update=_moment(this_update),
                next_update=_moment(next_update) if next_update is not None else None,
                revocation_time=_moment(START - HOUR) if revoked else None,
                revocation_reason=None,
            )
            .responder_id(ocsp.OCSPResponderEncoding.HASH, by.certificate)
        )
        if signer is not None and with_signer:
            builder = builder.certificates([signer.certificate])
        return builder.sign(by.key, hashes.SHA256()).public_bytes(Encoding.DER)


def refusal(status: ocsp.OCSPResponseStatus) -> bytes:
    """A response that is none."""
    return ocsp.OCSPResponseBuilder.build_unsuccessful(status).public_bytes(Encoding.DER)


def _moment(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)
