"""What follows when a certificate was stored: it is used, planned for renewal, and told of to the other instances."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from ssl_cert_server.errors import StorageError
from ssl_cert_server.model import Certificate, Subject
from ssl_cert_server.renewal.plan import RenewalPlan, Stored
from ssl_cert_server.renewal.rebuild import SeenCertificates
from ssl_cert_server.service.records import IssuedRecord
from ssl_cert_server.storage.base import Storage

_log = structlog.get_logger()


class CertificateUpkeep:
    """See :class:`~ssl_cert_server.service.issuance.Upkeep`.

    ``on_stored`` is called with each certificate that takes another's place.
    """

    def __init__(
        self,
        plan: RenewalPlan,
        seen: SeenCertificates | None,
        storage: Storage,
        on_stored: Callable[[Subject, Certificate], None],
    ) -> None:
        """Without ``seen``, nothing is made of what is read: a command leaves that to the servers."""
        self._plan = plan
        self._seen = seen
        self._storage = storage
        self._on_stored = on_stored

    async def expect(self, cert_key: str) -> None:
        """See there."""
        await self._plan.expect(cert_key)

    async def stored(self, subject: Subject, certificate: Certificate, record: IssuedRecord | None) -> None:
        """See there."""
        self._on_stored(subject, certificate)
        if record is None:
            return  # the peer that stored it does the rest
        await self._plan.stored(subject, certificate, record)
        try:
            await self._storage.announce([subject.cert_key])
        except StorageError as error:
            _log.warning("changes.not_announced", cert_key=subject.cert_key, reason=str(error))
            await self._plan.publish_later(Stored(subject, certificate, record))

    async def publish(self, subject: Subject, certificate: Certificate) -> None:
        """See there."""
        self._on_stored(subject, certificate)
        await self._storage.announce([subject.cert_key])

    def seen(self, subject: Subject, certificate: Certificate) -> None:
        """See there."""
        if self._seen is not None:
            self._seen.seen(subject, certificate)
