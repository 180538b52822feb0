"""Which stored certificates are served, by their source, and which other keys may hold one for a name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ssl_cert_server.issuers.local_ca import parse_root
from ssl_cert_server.model import Certificate, Subject
from ssl_cert_server.pki.x509 import check_covers, check_not_expired, check_usable, parse_certificate
from ssl_cert_server.pki.x509 import parse_usable as parse_valid
from ssl_cert_server.service.policy import Source


def parse_usable(source: Source, stored: bytes, names: Sequence[str], now: float) -> Certificate:
    """Parse what is stored for ``names``, as its source does before it is served.

    Operators decide which names a managed certificate answers, and no client trusts a self-signed one for its names.

    :raises InvalidCertificate: it is not served.
    """
    match source:
        case Source.ACME:
            certificate = parse_certificate(stored)
            check_issued(certificate, names, now)
            return certificate
        case Source.LOCAL_CA:
            root = parse_root(stored)
            check_usable(root, now)
            return root
    return parse_valid(stored, now)


def check_issued(certificate: Certificate, names: Sequence[str], now: float) -> None:
    """Refuse a certificate by a CA that is expired or lacks one of ``names``.

    :raises InvalidCertificate: it is not served.
    """
    for name in names:
        check_covers(certificate, name)
    check_not_expired(certificate, now)


def keys_elsewhere(name: str, subject: Subject) -> Iterator[str]:
    """Iterate over the keys of certificates from before a wildcard was configured, or from while one was."""
    suffix = subject.cert_key.removeprefix(subject.names[0])
    for cert_key in (name + suffix, f"*.{name.partition('.')[2]}{suffix}"):
        if cert_key != subject.cert_key and "." in cert_key:
            yield cert_key
