"""Finds what is stored when the server starts, so that it is renewed though nobody asks for it."""

from __future__ import annotations

import structlog

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import StorageError
from ssl_cert_server.model import Subject
from ssl_cert_server.service.issuance import AcmeCertificates
from ssl_cert_server.service.policy import Policy
from ssl_cert_server.storage.base import Storage

_log = structlog.get_logger()

_AFTER_ERROR = 60.0


class StoredCertificates:
    """Reads every stored certificate once; each schedules itself by being read."""

    def __init__(self, certificates: AcmeCertificates, storage: Storage, policy: Policy, clock: Clock) -> None:
        self._certificates = certificates
        self._storage = storage
        self._policy = policy
        self._clock = clock

    async def read(self) -> None:
        """Read all; what can't be read is tried again later, and keeps nothing else from being read."""
        unread = await self._list()
        while True:
            unread = [subject for subject in unread if not await self._read(subject)]
            if not unread:
                return
            await self._clock.sleep(_AFTER_ERROR)

    async def _list(self) -> list[Subject]:
        """List what is permitted and has a stored certificate."""
        while True:
            try:
                found = [self._policy.stored_subject(cert_key) async for cert_key in self._storage.list()]
                return [subject for subject in found if subject is not None]
            except StorageError as error:
                _log.error("renewal.scan_failed", reason=str(error))
                await self._clock.sleep(_AFTER_ERROR)

    async def _read(self, subject: Subject) -> bool:
        try:
            # One from before an apex joined its wildcard is renewed, too, and has the apex then.
            await self._certificates.stored(subject, subject.names[0])
        except StorageError as error:
            _log.error("renewal.unreadable", cert_key=subject.cert_key, reason=str(error))
            return False
        return True
