"""The stored certificates as renewal sees them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ssl_cert_server.errors import InvalidCertificate, NotPermitted
from ssl_cert_server.model import Certificate, Subject
from ssl_cert_server.pki.x509 import parse_certificate
from ssl_cert_server.renewal.plan import Stored
from ssl_cert_server.service.budget.planner import Priority
from ssl_cert_server.service.issuance import AcmeCertificates
from ssl_cert_server.service.policy import Policy
from ssl_cert_server.service.records import load_record, save_record
from ssl_cert_server.storage.base import Lease, Storage

_WRITING = 60.0


class StoredCertificates:
    """See :class:`~ssl_cert_server.renewal.worker.Renewables`."""

    def __init__(self, certificates: AcmeCertificates, storage: Storage, policy: Policy) -> None:
        self._certificates = certificates
        self._storage = storage
        self._policy = policy

    async def find(self, cert_key: str) -> Stored | None:
        """Give what is stored, however old; one that can't be parsed is as good as none.

        :raises NotPermitted: no rule covers it; it isn't read, as it may be anybody's.
        :raises StorageError: it can't be read.
        """
        subject = self._policy.stored_subject(cert_key)
        if subject is None:
            raise NotPermitted(f"{cert_key}: no rule covers it")
        try:
            certificate = parse_certificate(await self._storage.get(cert_key) or b"")
        except InvalidCertificate:
            return None
        return Stored(subject, certificate, await load_record(self._storage, cert_key, certificate.fingerprint))

    async def managed(self, cert_key: str) -> Certificate | None:
        """Give what an operator keeps under ``cert_key``; one that can't be parsed is as good as none.

        :raises NotPermitted: the configuration knows no such key.
        :raises StorageError: it can't be read.
        """
        if not self._policy.is_managed(cert_key):
            raise NotPermitted(f"{cert_key} is not managed")
        try:
            return parse_certificate(await self._storage.get(cert_key) or b"")
        except InvalidCertificate:
            return None

    async def keep(self, stored: Stored) -> Stored | None:
        """Write what became known of a certificate, and give what was known before.

        None where the certificate is being replaced, or was meanwhile: nothing is written then.

        :raises StorageError: it can't be read or written.
        """
        cert_key = stored.subject.cert_key
        async with self._held(cert_key) as lease:
            if lease is None:
                return None
            current = await self.find(cert_key)
            if current is None or current.certificate.fingerprint != stored.certificate.fingerprint:
                return None
            await save_record(self._storage, cert_key, stored.record, lease)
        return current

    async def take_out(self, cert_key: str, seen: Stored | None, *queues: str) -> bool:
        """Take a certificate out of queues in which it isn't needed, by what was ``seen`` of it.

        False where it is being replaced, or was meanwhile: whoever does that plans it, which must not be undone.

        :raises StorageError: it can't be read or taken out.
        """
        async with self._held(cert_key) as lease:
            if lease is None or _fingerprint(await self._find_permitted(cert_key)) != _fingerprint(seen):
                return False
            for queue in queues:
                await self._storage.unschedule(queue, [cert_key])
        return True

    async def renew(self, subject: Subject, replaces: str, priority: Priority) -> Certificate:
        """See :meth:`ssl_cert_server.service.issuance.AcmeCertificates.renew`."""
        return await self._certificates.renew(subject, replaces, priority)

    async def publish(self, stored: Stored) -> None:
        """See :meth:`ssl_cert_server.service.issuance.AcmeCertificates.publish`."""
        await self._certificates.publish(stored.subject, stored.certificate)

    @asynccontextmanager
    async def _held(self, cert_key: str) -> AsyncIterator[Lease | None]:
        """Hold the lease on a certificate; None where somebody has it, as who replaces it."""
        lease = await self._storage.acquire(f"certificates/{cert_key}", _WRITING)
        try:
            yield lease
        finally:
            if lease is not None:
                await self._storage.release(lease)

    async def _find_permitted(self, cert_key: str) -> Stored | None:
        try:
            return await self.find(cert_key)
        except NotPermitted:
            return None


def _fingerprint(stored: Stored | None) -> str:
    return stored.certificate.fingerprint if stored is not None else ""
