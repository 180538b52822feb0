"""What a stored certificate is, and when its renewal is due: shared by checking and by mending the index."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from ssl_cert_server.clock import Clock
from ssl_cert_server.config.schema import Config
from ssl_cert_server.errors import InvalidName, NotOpened
from ssl_cert_server.model import Certificate
from ssl_cert_server.pki.names import normalize_identifier
from ssl_cert_server.pki.x509 import check_covers, parse_certificate
from ssl_cert_server.renewal.schedule import advised_at, renew_at
from ssl_cert_server.service.policy import Policy
from ssl_cert_server.service.records import load_record
from ssl_cert_server.service.state import load_state
from ssl_cert_server.storage.base import Due, Storage

_DAY = 86_400.0
_RSA_SUFFIX = "+rsa"


@dataclass(frozen=True, slots=True)
class Rules:
    """What the configuration says of storage keys. ``others`` are certificates that no CA issued."""

    policy: Policy
    others: frozenset[str]
    renew_before: float | None

    @classmethod
    def of(cls, config: Config, policy: Policy) -> Rules:
        """Read them from a configuration."""
        others = {rule.cert_key for rule in config.managed}
        if config.self_signed.enable:
            others.add(config.self_signed.cert_key)
        days = config.lets_encrypt.renew_before
        return cls(policy, frozenset(others), days * _DAY if days is not None else None)


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


async def due_of(storage: Storage, key: str, certificate: Certificate, rules: Rules, clock: Clock) -> Due:
    """Say when a CA's certificate is renewed: as its CA advised, or by its lifetime, and not while backing off.

    :raises StorageError: what is known of it can't be read.
    """
    not_before, not_after = certificate.not_before, certificate.not_after
    at = renew_at(not_before, not_after, clock.random(), rules.renew_before)
    with suppress(NotOpened):  # better early than never
        record = await load_record(storage, key, certificate.fingerprint)
        if record.renew_at:
            at = advised_at(record.renew_at, not_before, not_after)
        if at <= clock.now():
            state = await load_state(storage, key)
            at = max(at, state.retry_at) if state.failed_at <= clock.now() else at
    return Due(key, at, not_after)


def _name_of(key: str) -> str:
    """Give the name that a certificate is stored under, none where the key looks like none."""
    name = key.removesuffix(_RSA_SUFFIX)
    apex = name.removeprefix("*.")
    try:
        return name if normalize_identifier(apex) == apex and ("." in apex or ":" in apex) else ""
    except InvalidName:
        return ""
