"""What every source of certificates looks like to the service."""

from __future__ import annotations

from typing import Protocol

from ssl_cert_server.model import Certificate, CertificateType, Subject


class Issuer(Protocol):
    """A source of certificates for one rule of the policy."""

    @property
    def type(self) -> CertificateType:
        """What the wire protocol calls such a certificate."""

    async def obtain(self, name: str, subject: Subject) -> Certificate:
        """Give the certificate for a permitted, normalised name; it is never an expired one.

        ``subject`` is what the policy settled on. It may take as long as an issuance takes.

        :raises CertServerError: none could be had; an Unavailable tells when to ask again.
        """

    def fresh_until(self, certificate: Certificate) -> float:
        """Give the time (Unix seconds) from which :meth:`obtain` should be asked again instead of memory."""
