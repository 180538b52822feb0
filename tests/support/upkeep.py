"""Somebody who looks after nothing, and notes what he hears."""

from __future__ import annotations

from ssl_cert_server.model import Certificate, Subject
from ssl_cert_server.service.records import IssuedRecord


class RecordingUpkeep:
    """See :class:`ssl_cert_server.service.issuance.Upkeep`.

    ``read`` and ``written`` are the first names and fingerprints of certificates, ``peers`` those that a peer stored.
    """

    def __init__(self) -> None:
        self.expected: list[str] = []
        self.read: list[tuple[str, str]] = []
        self.written: list[tuple[str, str]] = []
        self.peers: list[tuple[str, str]] = []
        self.published: list[tuple[str, str]] = []

    async def expect(self, cert_key: str) -> None:
        self.expected.append(cert_key)

    async def stored(self, subject: Subject, certificate: Certificate, record: IssuedRecord | None) -> None:
        (self.peers if record is None else self.written).append((subject.names[0], certificate.fingerprint))

    async def publish(self, subject: Subject, certificate: Certificate) -> None:
        self.published.append((subject.names[0], certificate.fingerprint))

    def seen(self, subject: Subject, certificate: Certificate) -> None:
        self.read.append((subject.names[0], certificate.fingerprint))
