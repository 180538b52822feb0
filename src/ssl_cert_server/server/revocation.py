"""Replacing and revoking one certificate, beside the servers that run on the same storage."""

from __future__ import annotations

from contextlib import AsyncExitStack

import structlog

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import AcmeError, CertServerError
from ssl_cert_server.model import Subject
from ssl_cert_server.pki.x509 import parse_certificate
from ssl_cert_server.renewal.plan import RenewalPlan
from ssl_cert_server.renewal.upkeep import CertificateUpkeep
from ssl_cert_server.server.engine import Engine
from ssl_cert_server.server.removal import exclusively, remove_certificate
from ssl_cert_server.service.ask import Ask
from ssl_cert_server.service.attempts import Predecessor
from ssl_cert_server.service.budget.planner import Priority
from ssl_cert_server.service.issuance import AcmeCertificates
from ssl_cert_server.service.records import load_record
from ssl_cert_server.service.turns import Turns
from ssl_cert_server.storage.base import Storage
from ssl_cert_server.storage.removals import record_key
from ssl_cert_server.storage.write_watch import PROBE

_log = structlog.get_logger()


class Revocation:
    """One certificate's end."""

    def __init__(self, storage: Storage, engine: Engine, plan: RenewalPlan, ask: Ask | None, clock: Clock) -> None:
        self._storage = storage
        self._plan = plan
        self._engine = engine
        self._ask = ask
        self._clock = clock

    async def find(self, subject: Subject) -> Predecessor | None:
        """Give what is stored, or None.

        :raises CertServerError: it can't be read or parsed.
        """
        stored = await self._storage.get(subject.cert_key)
        if stored is None:
            return None
        certificate = parse_certificate(stored)
        return Predecessor(certificate, await load_record(self._storage, subject.cert_key, certificate.fingerprint))

    async def replace(self, subject: Subject, old: Predecessor, stack: AsyncExitStack) -> None:
        """Have a successor issued and stored, and tell the running servers.

        :raises CertServerError: it failed; nothing is revoked yet.
        """
        acme = AcmeCertificates(
            self._storage,
            self._engine.states,
            self._engine.attempts,
            Turns(1, self._clock),
            self._clock,
            ask=self._ask,
            upkeep=CertificateUpkeep(self._plan, None, self._storage, on_stored=lambda *_: None),
        )
        stack.push_async_callback(acme.close)
        await acme.renew(subject, old.certificate.fingerprint, Priority.EXPIRING)

    async def revoke(self, subject: Subject, old: Predecessor, reason: int) -> None:
        """Revoke at the CA that issued it; where it is still the stored one, it is removed.

        A removal record comes first: no instance that holds the certificate writes it back.

        :raises StorageError: the removal record can't be written. Nothing is revoked where that fails beforehand.
        :raises CertServerError: the CA refused or could not be reached.
        """
        key, fingerprint = subject.cert_key, old.certificate.fingerprint
        await self._rehearse(key)
        await self._revoke_at_ca(old, reason)
        _log.info("certificate.revoked", name=subject.names[0], fingerprint=fingerprint)
        await remove_certificate(
            self._storage, key, old.certificate, old.record, self._clock, lease_name=f"certificates/{key}"
        )

    async def _rehearse(self, key: str) -> None:
        """Write what has to be written once the certificate is revoked, which can't be undone."""
        async with exclusively(self._storage, f"certificates/{key}", self._clock) as lease:
            await self._storage.put(record_key(PROBE), b"{}", lease=lease)
            await self._storage.delete(record_key(PROBE), lease=lease)

    async def _revoke_at_ca(self, old: Predecessor, reason: int) -> None:
        known = self._engine.cas.get(old.record.directory_url)
        # Without a record of who issued it, whichever account it belongs to will take it.
        cas = [known] if known is not None else [*self._engine.cas.values()]
        failures: list[CertServerError] = []
        for ca in cas:
            try:
                await ca.revoke(old.certificate, reason)
                return
            except CertServerError as error:
                failures.append(error)
        raise AcmeError("; ".join(str(error) for error in failures))
