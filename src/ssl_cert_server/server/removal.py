"""Removal of a certificate from storage, so that no instance, mirror or backup brings it back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import InvalidCertificate, StorageError
from ssl_cert_server.model import Certificate
from ssl_cert_server.pki.x509 import parse_certificate
from ssl_cert_server.service.records import IssuedRecord, load_record
from ssl_cert_server.storage.base import Lease, Storage
from ssl_cert_server.storage.leasing import HeldLease, leased
from ssl_cert_server.storage.removals import record_key, save_removals

PATIENCE = 120.0
"""Seconds that a command waits for the lease of a certificate, which a server holds while it has it issued."""


async def remove_certificate(
    storage: Storage, key: str, certificate: Certificate, record: IssuedRecord, clock: Clock, *, lease_name: str
) -> None:
    """Write a removal record, delete ``certificate`` where it is still the stored one, and announce both.

    :raises StorageError: storage can't be read or written.
    """
    async with leased(storage, lease_name, clock) as lease:
        removed = await _record(storage, key, certificate, record, clock, lease)
        stored = _parsed(await storage.get(key))
        if stored is not None and stored.fingerprint in removed:
            await storage.delete(key, lease=lease)
        await storage.announce([record_key(key), key])


async def remove_stored(storage: Storage, key: str, clock: Clock, *, lease_name: str) -> str:
    """Delete the value under ``key``, whatever it is, and return the certificate's fingerprint; empty where it is none.

    It is read under the lease: where the certificate is just being renewed, the renewed one is removed.

    :raises StorageError: there is no value, storage can't be read or written, or the lease can't be had.
    """
    async with exclusively(storage, lease_name, clock) as lease:
        stored = await storage.get(key)
        if stored is None:
            raise StorageError(f"there is no certificate under {key}; `storage verify` counts what is stored")
        certificate = _parsed(stored)
        if certificate is not None:
            record = await load_record(storage, key, certificate.fingerprint)
            await _record(storage, key, certificate, record, clock, lease)
        await storage.delete(key, lease=lease)
        await storage.announce([record_key(key), key])
    return certificate.fingerprint if certificate is not None else ""


@asynccontextmanager
async def exclusively(storage: Storage, lease_name: str, clock: Clock) -> AsyncIterator[HeldLease]:
    """Hold a lease during the block, and wait for it for at most :data:`PATIENCE` seconds.

    :raises StorageError: a server held it all the time, or it can't be asked for.
    """
    patience = asyncio.timeout(PATIENCE)
    try:
        async with patience, leased(storage, lease_name, clock) as lease:
            patience.reschedule(None)
            yield lease
    except TimeoutError as error:
        if not patience.expired():
            raise
        words = f"a server has held the lease {lease_name} for {PATIENCE:.0f} s: it issues or renews the certificate"
        raise StorageError(f"{words}; nothing was changed, try again later") from error


async def _record(
    storage: Storage, key: str, certificate: Certificate, record: IssuedRecord, clock: Clock, lease: Lease
) -> list[str]:
    """Write the removal record, and return the fingerprints in it.

    It also names the predecessor: an instance that missed the last renewal may hold that one.
    """
    removed = [each for each in (certificate.fingerprint, record.replaces) if each]
    removals = dict.fromkeys(removed, float(certificate.not_after))
    await save_removals(storage, key, removals, now=clock.now(), lease=lease)
    return removed


def _parsed(stored: bytes | None) -> Certificate | None:
    try:
        return parse_certificate(stored) if stored else None
    except InvalidCertificate:
        return None
