"""From a name to an answer: memory first, then whoever the policy says."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import (
    CertServerError,
    DeadlineExceeded,
    InvalidCertificate,
    NotPermitted,
    Overloaded,
    RequestError,
)
from ssl_cert_server.issuers.base import Issuer
from ssl_cert_server.model import Certificate, CertificateType, KeyFamily, Subject
from ssl_cert_server.service.answer import Answer, make_answer
from ssl_cert_server.service.cache import AnswerCache
from ssl_cert_server.service.flights import Flights
from ssl_cert_server.service.policy import Decision, Policy, Source

ANSWER_DEADLINE = 100.0
"""Seconds within which every request is answered: old clients wait 110."""

_ASK_AGAIN = 5.0
_MAX_FETCHES = 10_000
_FAMILY = " "
"""What parts a name from the family that was asked for, where that isn't the usual one."""


class Certificates:
    """What the HTTP room asks."""

    def __init__(self, cache: AnswerCache, policy: Policy, issuers: Mapping[Source, Issuer], clock: Clock) -> None:
        self._cache = cache
        self._policy = policy
        self._issuers = issuers
        self._clock = clock
        self._fetches: Flights[Answer] = Flights(_MAX_FETCHES)
        self._fetched: dict[str, str] = {}

    async def answer(self, name: str, family: KeyFamily | None = None) -> Answer:
        """Give the answer for a normalised name, with a key of ``family`` where the client wants one.

        :raises NotPermitted: no rule covers it, or none for that family.
        :raises CertServerError: no certificate could be had.
        """
        place = self._place(name, family)
        answer = self._cache.get(place) or await self._missed(place, name, family)
        if family not in (None, answer.certificate.family):
            raise NotPermitted(f"{name} has no certificate with an {family.upper()} key here")
        return answer

    def replace(self, subject: Subject, certificate: Certificate, source: Source = Source.ACME) -> None:
        """Hand out the certificate that was just stored, for all names that are in use and answered by it."""
        fetched = {place for place, cert_key in self._fetched.items() if cert_key == subject.cert_key}
        for place in self._cache.names_of(subject.cert_key) | fetched:
            self._remember(place, certificate, self._issuers[source], subject)
            self._fetched.pop(place, None)  # what is being read is older

    def uses(self, cert_key: str) -> bool:
        """Tell whether a name is answered with the certificate stored under ``cert_key``, or is about to be."""
        return bool(self._cache.names_of(cert_key)) or cert_key in self._fetched.values()

    def in_memory(self, name: str, family: KeyFamily) -> Certificate | None:
        """Give the certificate that a name is answered with, as far as that is known without asking anybody."""
        answer = self._cache.get(self._place(name, family))
        return answer.certificate if answer is not None else None

    def names_of(self, cert_key: str) -> set[str]:
        """Give the names in memory that are answered with the certificate stored under ``cert_key``."""
        return {place.partition(_FAMILY)[0] for place in self._cache.names_of(cert_key)}

    def drop(self, cert_key: str) -> None:
        """Forget the certificate that was stored under ``cert_key``; who asks next is answered anew."""
        self._cache.drop_certificate(cert_key)

    async def close(self) -> None:
        """Give up what is under way."""
        await self._fetches.close()

    def _place(self, name: str, family: KeyFamily | None) -> str:
        # No path of a request can be such a place: what is in memory is looked up by those, too.
        return name if family in (None, self._policy.usual_family) else f"{name}{_FAMILY}{family}"

    async def _missed(self, place: str, name: str, family: KeyFamily | None) -> Answer:
        try:
            return await self._miss(place, name, family)
        except RequestError:
            raise
        except CertServerError:
            stale = self._cache.stale(place)
            if stale is None:
                raise
            return stale

    async def _miss(self, place: str, name: str, family: KeyFamily | None) -> Answer:
        decision = self._policy.decide(name, family)
        if self._fetches.full and place not in self._fetches:
            raise Overloaded(f"{name}: {_MAX_FETCHES} names wait for their certificates already", _ASK_AGAIN)
        try:
            async with asyncio.timeout(ANSWER_DEADLINE):
                return await self._fetches.join(place, lambda: self._fetch(place, name, decision))
        except TimeoutError as error:
            raise DeadlineExceeded(f"no certificate for {name} in time; the work goes on", _ASK_AGAIN) from error

    async def _fetch(self, place: str, name: str, decision: Decision) -> Answer:
        issuer, subject = self._issuers[decision.source], decision.subject
        self._fetched[place] = subject.cert_key
        try:
            certificate = await issuer.obtain(name, subject)
        except NotPermitted:
            if decision.otherwise is None:
                raise
            return await self._fetch(place, name, decision.otherwise)
        finally:
            overtaken = self._fetched.pop(place, None) is None
        known = self._cache.get(place) if overtaken else None
        return known or self._remember(place, certificate, issuer, subject)

    def _remember(self, place: str, certificate: Certificate, issuer: Issuer, subject: Subject) -> Answer:
        several = len(self._policy.families) > 1 and issuer.type is CertificateType.ACME
        families = self._policy.families if several else ()
        answer = make_answer(certificate, issuer.type, issuer.fresh_until(certificate), subject.cert_key, families)
        if not answer.holds(self._clock):
            raise InvalidCertificate(f"the certificate for {place} expired just now")
        self._cache.put(place, answer)
        return answer
