"""The certificates in this instance's memory, by the keys that they are stored under."""

from __future__ import annotations

from ssl_cert_server.issuers.local_ca import ROOT_KEY, LocalCa
from ssl_cert_server.issuers.managed import ManagedCertificates
from ssl_cert_server.service.cache import AnswerCache
from ssl_cert_server.service.policy import Policy


class HeldCertificates:
    """What can be written back from memory."""

    def __init__(self, policy: Policy, cache: AnswerCache, managed: ManagedCertificates, local_ca: LocalCa) -> None:
        self._policy = policy
        self._cache = cache
        self._managed = managed
        self._local_ca = local_ca

    def keys(self) -> list[str]:
        """Return the keys of all certificates in memory, the local CA's root left out."""
        return [*{key: None for key in (*self._cache.cert_keys(), *self._managed.in_use()) if key}]

    def keys_and_root(self) -> list[str]:
        """Return the keys of all certificates in memory, the local CA's root among them."""
        return [*([ROOT_KEY] if self._local_ca.root_in_memory else []), *self.keys()]

    def value(self, key: str) -> bytes | None:
        """Return the value to store under ``key``, or None where memory doesn't hold one."""
        if key == ROOT_KEY:
            return self._local_ca.root_in_memory
        if self._policy.is_managed(key):
            return self._managed.value_of(key)
        certificate = self._cache.certificate(key)
        subject = self._policy.stored_subject(key)
        # A name may be answered for a while with a certificate that is stored under another key, as a wildcard's.
        if certificate is None or (subject is not None and not certificate.names.issuperset(subject.names)):
            return None
        return certificate.stored
