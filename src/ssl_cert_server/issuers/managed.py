"""Certificates that an operator puts into storage: read, checked, and read again when they change."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

import structlog

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import InvalidCertificate, StorageError, Unavailable
from ssl_cert_server.log_interval import ReasonInterval
from ssl_cert_server.model import Certificate, CertificateType, Subject
from ssl_cert_server.pki.x509 import check_usable, parse_usable
from ssl_cert_server.storage.base import Storage

_log = structlog.get_logger()

_WATCH_EVERY = 2.0
_AT_ONCE = 50
"""Certificates read at one look: what a look costs doesn't grow with how many there are, but how long a round takes."""


class ManagedCertificates:
    """Holds the last good certificate of each of ``cert_keys``.

    ``on_replaced`` is called with each certificate that takes another's place.
    """

    type = CertificateType.MANAGED

    def __init__(
        self,
        storage: Storage,
        clock: Clock,
        cert_keys: Iterable[str],
        on_replaced: Callable[[Subject, Certificate], None],
    ) -> None:
        self._storage = storage
        self._clock = clock
        self._on_replaced = on_replaced
        self._good: dict[str, tuple[bytes, Certificate]] = {}
        self._refused: dict[str, tuple[bytes, str]] = {}
        self._unreadable: dict[str, ReasonInterval] = {}
        self._in_turn = deque(dict.fromkeys(cert_keys))
        self._cert_keys = frozenset(self._in_turn)
        self._looked_at: set[str] = set()

    async def obtain(self, name: str, subject: Subject) -> Certificate:
        cert_key = subject.cert_key
        if cert_key not in self._good:
            await self.refresh(cert_key)
        if cert_key not in self._good:
            reason = self._refused[cert_key][1]
            raise Unavailable(f"{name}: {cert_key} in storage can't be used: {reason}", _WATCH_EVERY)
        certificate = self._good[cert_key][1]
        try:
            check_usable(certificate, self._clock.now())
        except InvalidCertificate as error:
            raise InvalidCertificate(f"{name}: {cert_key} in storage can't be used: {error}") from error
        return certificate

    def fresh_until(self, certificate: Certificate) -> float:
        return certificate.not_after

    def in_use(self) -> dict[str, Certificate]:
        """Give the certificates that are good, by their ``cert_key``."""
        return {cert_key: certificate for cert_key, (_, certificate) in self._good.items()}

    def value_of(self, cert_key: str) -> bytes | None:
        """Return the bytes of the certificate in use, as they were stored; None where there is none."""
        return self._good[cert_key][0] if cert_key in self._good else None

    async def watch(self) -> None:
        """Look for changed certificates, :data:`_AT_ONCE` of them every two seconds, in turn and for ever.

        Each is announced at the first look: it may have been replaced while no server ran.
        """
        while True:
            await self._clock.sleep(_WATCH_EVERY * (1 + self._clock.random() / 4))
            for _ in range(min(_AT_ONCE, len(self._in_turn))):
                self._in_turn.rotate(-1)
                await self._look_at(self._in_turn[-1])

    async def refresh_used(self, cert_key: str) -> None:
        """Hear from another instance that ``cert_key`` changed: read it, where it is one of these.

        :raises StorageError: it can't be read.
        """
        if cert_key in self._cert_keys:
            await self.refresh(cert_key)

    async def refresh(self, cert_key: str) -> bool:
        """Read ``cert_key`` and take it over where it changed and is usable; else keep the last good one.

        True where it took another's place.

        :raises StorageError: it can't be read.
        """
        stored = await self._storage.get(cert_key) or b""
        if cert_key in self._good and self._good[cert_key][0] == stored:
            self._refused.pop(cert_key, None)
            return False
        try:
            certificate = self._check(stored)
        except InvalidCertificate as error:
            self._refuse(cert_key, stored, str(error))
            return False
        return self._take_over(cert_key, stored, certificate)

    def names_of(self, cert_key: str) -> frozenset[str]:
        """Give the names in the certificate that is in use of ``cert_key``; none where none is."""
        return self._good[cert_key][1].names if cert_key in self._good else frozenset()

    async def _look_at(self, cert_key: str) -> None:
        try:
            replaced = await self.refresh(cert_key)
            if replaced or (cert_key in self._good and cert_key not in self._looked_at):
                await self._storage.announce([cert_key])
            self._looked_at.add(cert_key)
            self._unreadable.pop(cert_key, None)
        except StorageError as error:
            self._note_unreadable(cert_key, str(error))

    def _note_unreadable(self, cert_key: str, reason: str) -> None:
        if not self._unreadable.setdefault(cert_key, ReasonInterval()).over(reason):
            return
        served = self._served(cert_key)
        log = _log.error if served is None else _log.warning
        log("managed.unreadable", cert_key=cert_key, reason=reason, still_served=served)

    def _served(self, cert_key: str) -> str | None:
        """Return the fingerprint of the certificate that is served from memory, or None."""
        if cert_key not in self._good:
            return None
        certificate = self._good[cert_key][1]
        return certificate.fingerprint if self._clock.now() < certificate.not_after else None

    def _check(self, stored: bytes) -> Certificate:
        if not stored:
            raise InvalidCertificate("there is nothing under this key")
        return parse_usable(stored, self._clock.now())

    def _refuse(self, cert_key: str, stored: bytes, reason: str) -> None:
        if self._refused.get(cert_key) == (stored, reason):
            return  # said already; it is looked at again because one that isn't valid yet becomes so
        self._refused[cert_key] = (stored, reason)
        _log.error("managed.refused", cert_key=cert_key, reason=reason, still_served=self._served(cert_key))

    def _take_over(self, cert_key: str, stored: bytes, certificate: Certificate) -> bool:
        previous = self._good.get(cert_key)
        self._good[cert_key] = (stored, certificate)
        self._refused.pop(cert_key, None)
        _log.info("managed.loaded", cert_key=cert_key, fingerprint=certificate.fingerprint)
        replaced = previous is not None and previous[1] != certificate
        if replaced:
            self._on_replaced(Subject(cert_key), certificate)
        return replaced
