"""Brings what is handed out up to date with what another instance, a command or an operator stored."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

from ssl_cert_server.issuers.managed import ManagedCertificates
from ssl_cert_server.ocsp.staples import FOLDER
from ssl_cert_server.pki.names import covers
from ssl_cert_server.service.cache import AnswerCache
from ssl_cert_server.service.certificates import Certificates
from ssl_cert_server.service.issuance import AcmeCertificates
from ssl_cert_server.service.policy import Policy
from ssl_cert_server.service.staples import Staples
from ssl_cert_server.storage.base import Storage
from ssl_cert_server.storage.removals import removed_from

_STAPLES = f"{FOLDER}/"


class Refresh:
    """Reads again what was announced, as far as it is in use here."""

    def __init__(
        self,
        policy: Policy,
        cache: AnswerCache,
        certificates: Certificates,
        staples: Staples,
        acme: AcmeCertificates,
        managed: ManagedCertificates,
        storage: Storage,
        *,
        on_removed: Callable[[str], Awaitable[None]],
        on_reset: Callable[[], None],
    ) -> None:
        """``on_removed`` is awaited with each key of which a removal was announced, before the key itself is read.

        ``on_reset`` is called when anything may have changed.
        """
        self._policy = policy
        self._cache = cache
        self._certificates = certificates
        self._staples = staples
        self._acme = acme
        self._managed = managed
        self._storage = storage
        self._on_removed = on_removed
        self._on_reset = on_reset

    async def one(self, key: str) -> Collection[str]:
        """Read a certificate again, or a staple, that is stored under ``key``, and give the names that it answers.

        :raises StorageError: it can't be read.
        """
        if key.startswith(_STAPLES):
            self._staples.drop(key.removeprefix(_STAPLES))
            return self.names_of(key)
        removed = removed_from(key)
        if removed is not None:
            await self._on_removed(removed)
            return self.names_of(removed)
        return await self._certificate(key)

    def everything(self) -> Collection[str]:
        """Hear that anything may have changed, and give the keys of what is in use: each is to be read again."""
        self._staples.drop_all()
        self._on_reset()
        return self._cache.cert_keys()

    def names_of(self, key: str) -> set[str]:
        """Give the names that are answered with what is stored under ``key``, wildcards for those they cover.

        Managed certificates answer whatever their pattern matches: of those, what is in memory is told, too.
        """
        cert_key = removed_from(key) or key.removeprefix(_STAPLES)
        subject = self._policy.stored_subject(cert_key)
        names = set(subject.names if subject is not None else self._managed.names_of(cert_key))
        for name in self._certificates.names_of(cert_key):
            if not any(covers(known, name) for known in names):
                names.add(name)
        return names

    async def _certificate(self, cert_key: str) -> Collection[str]:
        names = self.names_of(cert_key)
        await self._managed.refresh_used(cert_key)
        # The last good managed certificate is served on.
        if self._certificates.uses(cert_key) and not self._policy.is_managed(cert_key):
            await self._replace_or_drop(cert_key)
        return {*names, *self._managed.names_of(cert_key)}

    async def _replace_or_drop(self, cert_key: str) -> None:
        subject = self._policy.stored_subject(cert_key)
        certificate = await self._acme.stored(subject) if subject is not None else None
        if subject is not None and certificate is not None:
            self._certificates.replace(subject, certificate)
        elif await self._storage.get(cert_key) is None:  # what can't be used takes nothing's place
            self._certificates.drop(cert_key)
