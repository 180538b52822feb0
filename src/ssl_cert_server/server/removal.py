"""Removal of a certificate from storage, so that no instance, mirror or backup brings it back."""

from __future__ import annotations

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import InvalidCertificate
from ssl_cert_server.model import Certificate
from ssl_cert_server.pki.x509 import parse_certificate
from ssl_cert_server.service.records import IssuedRecord
from ssl_cert_server.storage.base import Storage
from ssl_cert_server.storage.leasing import leased
from ssl_cert_server.storage.removals import record_key, save_removals


async def remove_certificate(
    storage: Storage, key: str, certificate: Certificate, record: IssuedRecord, clock: Clock, *, lease_name: str
) -> None:
    """Write a removal record, delete ``certificate`` where it is still the stored one, and announce both.

    The record also names the predecessor: an instance that missed the last renewal may hold that one.

    :raises StorageError: storage can't be read or written.
    """
    removed = [each for each in (certificate.fingerprint, record.replaces) if each]
    async with leased(storage, lease_name, clock) as lease:
        removals = dict.fromkeys(removed, float(certificate.not_after))
        await save_removals(storage, key, removals, now=clock.now(), lease=lease)
        if _fingerprint(await storage.get(key)) in removed:
            await storage.delete(key, lease=lease)
        await storage.announce([record_key(key), key])


def _fingerprint(stored: bytes | None) -> str:
    try:
        return parse_certificate(stored).fingerprint if stored else ""
    except InvalidCertificate:
        return ""
