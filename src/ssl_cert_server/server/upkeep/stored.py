"""What a stored certificate is: shared by checking and by mending the queue of renewals."""

from __future__ import annotations

from dataclasses import dataclass

from ssl_cert_server.config.schema import Config
from ssl_cert_server.errors import InvalidName, NotOpened
from ssl_cert_server.model import Certificate
from ssl_cert_server.pki.names import normalize_identifier
from ssl_cert_server.pki.x509 import check_covers, parse_certificate
from ssl_cert_server.service.policy import Policy
from ssl_cert_server.service.records import IssuedRecord, load_record
from ssl_cert_server.storage.base import Storage

EXPECTED_WITHIN = 3600.0
"""Seconds: a renewal that is due sooner may be of a certificate that is only being issued."""

_RSA_SUFFIX = "+rsa"


@dataclass(frozen=True, slots=True)
class Rules:
    """What the configuration says of storage keys. ``others`` are certificates that no CA issued."""

    policy: Policy
    others: frozenset[str]

    @classmethod
    def of(cls, config: Config, policy: Policy) -> Rules:
        """Read them from a configuration."""
        others = {rule.cert_key for rule in config.managed}
        if config.self_signed.enable:
            others.add(config.self_signed.cert_key)
        return cls(policy, frozenset(others))


def parse_stored(key: str, stored: bytes, rules: Rules) -> Certificate:
    """Parse a certificate, and see that it is for the name that it is stored under.

    :raises InvalidCertificate: it can't be used for that name.
    """
    certificate = parse_certificate(stored)
    subject = rules.policy.stored_subject(key)
    name = subject.names[0] if subject is not None else "" if key in rules.others else _name_of(key)
    if name:
        check_covers(certificate, name)
    return certificate


async def read_record(storage: Storage, key: str, certificate: Certificate) -> IssuedRecord:
    """Read what is kept of a certificate; what can't be opened is as good as nothing: it is renewed by its lifetime.

    :raises StorageError: it can't be read.
    """
    try:
        return await load_record(storage, key, certificate.fingerprint)
    except NotOpened:
        return IssuedRecord(certificate.fingerprint)


def _name_of(key: str) -> str:
    """Give the name that a certificate is stored under, none where the key looks like none."""
    name = key.removesuffix(_RSA_SUFFIX)
    apex = name.removeprefix("*.")
    try:
        return name if normalize_identifier(apex) == apex and ("." in apex or ":" in apex) else ""
    except InvalidName:
        return ""
