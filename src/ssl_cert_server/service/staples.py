"""Staples as web servers get them: from memory, whatever the responders are at."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

import structlog

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import NotPermitted, StorageError
from ssl_cert_server.model import Certificate
from ssl_cert_server.ocsp.staples import Staple, load_staple
from ssl_cert_server.service.certificates import Certificates
from ssl_cert_server.service.flights import Flights
from ssl_cert_server.service.policy import Policy, Source
from ssl_cert_server.service.remembered import RememberedNames
from ssl_cert_server.storage.base import Storage

_log = structlog.get_logger()

_KEPT = 10_000
_READS = 1_000
_WAITING = 1_000
_LOOK_AGAIN = 60.0
_WANTED_FOR = 600.0


@dataclass(slots=True)
class _Kept:
    staple: Staple
    look_at: float
    """When storage is looked at again (monotonic seconds)."""


class Staples:
    """Keeps the staples of the last 10,000 certificates that were asked for: about 30 MB."""

    def __init__(
        self,
        policy: Policy,
        certificates: Certificates,
        storage: Storage,
        clock: Clock,
        want: Callable[[str], Awaitable[None]],
    ) -> None:
        """``want`` has the responder asked about the certificate stored under a key."""
        self._policy = policy
        self._certificates = certificates
        self._storage = storage
        self._clock = clock
        self._want = want
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._drops = 0
        self._reads: Flights[Staple] = Flights(_READS)
        self._wanted = RememberedNames(clock, _KEPT)
        self._waiting: asyncio.Queue[tuple[str, str]] = asyncio.Queue(_WAITING)

    async def answer(self, name: str, fingerprint: str) -> Staple | None:
        """Give the staple for the certificate of a normalised name, or None.

        It is the one of the certificate with this ``fingerprint``, where that is not empty.

        :raises StorageError: it can't be read.
        :raises Unavailable: the server is stopping.
        """
        for cert_key, certificate in self._candidates(name):
            if certificate is not None and not certificate.ocsp_urls:
                continue  # it never has one; looking for it would cost a read
            staple = await self._staple(cert_key)
            wanted = fingerprint or (certificate.fingerprint if certificate is not None else staple.fingerprint)
            if staple.fingerprint == wanted and staple.holds(self._clock.now()):
                return staple
            if certificate is not None and staple.fingerprint != certificate.fingerprint:
                self._miss(cert_key, certificate)
        return None

    def drop(self, cert_key: str) -> None:
        """Hear that what was kept for the certificate under ``cert_key`` is replaced."""
        self._kept.pop(cert_key, None)
        self._drops += 1

    def drop_all(self) -> None:
        """Hear that anything may have been replaced."""
        self._kept.clear()
        self._drops += 1

    async def run(self) -> None:
        """Have responders asked about certificates that are in use and of which nothing is known, for ever."""
        while True:
            cert_key, fingerprint = await self._waiting.get()
            try:
                await self._want(cert_key)
            except StorageError as error:
                self._wanted.drop(fingerprint)
                _log.warning("ocsp.not_scheduled", cert_key=cert_key, reason=str(error))

    async def close(self) -> None:
        """Give up what is being read."""
        await self._reads.close()

    def _candidates(self, name: str) -> Iterator[tuple[str, Certificate | None]]:
        """Give the keys of what may answer a name, each with the certificate that is in memory for it."""
        for family in self._policy.families:
            try:
                decision = self._policy.decide(name, family)
            except NotPermitted:
                continue
            if decision.source in (Source.MANAGED, Source.ACME):
                yield decision.subject.cert_key, self._certificates.in_memory(name, family)
            if decision.source is not Source.ACME:
                return

    async def _staple(self, cert_key: str) -> Staple:
        kept = self._kept.get(cert_key)
        if kept is not None:
            self._kept.move_to_end(cert_key)
            if self._clock.monotonic() < kept.look_at:
                return kept.staple
        try:
            # Who asks after a staple was replaced must not be told what is being read since before.
            return await self._reads.join(f"{cert_key} {self._drops}", lambda: self._read(cert_key))
        except StorageError:
            if kept is None:
                raise
            return kept.staple

    async def _read(self, cert_key: str) -> Staple:
        drops = self._drops
        staple = await load_staple(self._storage, cert_key)
        if drops != self._drops:
            return staple
        fresh_for = max(staple.refresh_at - self._clock.now(), _LOOK_AGAIN)
        self._kept[cert_key] = _Kept(staple, self._clock.monotonic() + fresh_for)
        self._kept.move_to_end(cert_key)
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return staple

    def _miss(self, cert_key: str, certificate: Certificate) -> None:
        if certificate.fingerprint not in self._wanted and not self._waiting.full():
            self._wanted.add(certificate.fingerprint, _WANTED_FOR)
            self._waiting.put_nowait((cert_key, certificate.fingerprint))
