"""One self-signed certificate for every name that nothing else answers, as the predecessor kept it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import InvalidCertificate, StorageError
from ssl_cert_server.model import Certificate, CertificateType, Subject
from ssl_cert_server.pki.signing import Validity, self_sign
from ssl_cert_server.pki.x509 import parse_usable
from ssl_cert_server.storage.base import Storage
from ssl_cert_server.storage.leasing import leased

_log = structlog.get_logger()

_AFTER_ERROR = 60.0


class SelfSignedIssuer:
    """Keeps the certificate in storage, and makes a new one where there is none or a tenth of its life is left."""

    type = CertificateType.SELF_SIGNED

    def __init__(self, storage: Storage, clock: Clock, *, valid_days: int, organization: Sequence[str]) -> None:
        self._storage = storage
        self._clock = clock
        self._valid_days = valid_days
        self._organization = organization
        self._making = asyncio.Lock()

    async def obtain(self, name: str, subject: Subject) -> Certificate:  # noqa: ARG002 - one for all names
        cert_key = subject.cert_key
        async with self._making:
            certificate = await self._stored(cert_key)
            if certificate is not None and self._clock.now() < _due(certificate):
                return certificate
            try:
                return await self._make(cert_key)
            except StorageError as error:
                if certificate is None:
                    raise
                _log.warning("self_signed.not_renewed", cert_key=cert_key, reason=str(error))
                return certificate

    def fresh_until(self, certificate: Certificate) -> float:
        due, now = _due(certificate), self._clock.now()
        # One that is due could not be replaced: it is given on, and looked at again after a while.
        return due if now < due else min(now + _AFTER_ERROR, certificate.not_after)

    async def _make(self, cert_key: str) -> Certificate:
        async with leased(self._storage, f"self_signed/{cert_key}", self._clock) as lease:
            certificate = await self._stored(cert_key)
            if certificate is None or self._clock.now() >= _due(certificate):
                validity = Validity.days_from(self._clock.now(), self._valid_days)
                certificate = self_sign(self._organization, [], validity)
                await self._storage.put(cert_key, certificate.stored, lease=lease)
                _log.info("self_signed.made", cert_key=cert_key, fingerprint=certificate.fingerprint)
        return certificate

    async def _stored(self, cert_key: str) -> Certificate | None:
        stored = await self._storage.get(cert_key)
        if stored is None:
            return None
        try:
            return parse_usable(stored, self._clock.now())
        except InvalidCertificate as error:
            _log.warning("self_signed.replaced", cert_key=cert_key, reason=str(error))
            return None


def _due(certificate: Certificate) -> float:
    return certificate.not_after - certificate.lifetime / 10
