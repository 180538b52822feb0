"""From a name to an answer: memory first, then whoever the policy says."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import DeadlineExceeded, InvalidCertificate, Overloaded
from ssl_cert_server.issuers.base import Issuer
from ssl_cert_server.model import Certificate
from ssl_cert_server.service.answer import Answer, make_answer
from ssl_cert_server.service.cache import AnswerCache
from ssl_cert_server.service.flights import Flights
from ssl_cert_server.service.policy import Decision, Policy, Source

ANSWER_DEADLINE = 100.0
"""Seconds within which every request is answered: old clients wait 110."""

_ASK_AGAIN = 5.0
_MAX_FETCHES = 10_000


class Certificates:
    """What the HTTP room asks."""

    def __init__(self, cache: AnswerCache, policy: Policy, issuers: Mapping[Source, Issuer], clock: Clock) -> None:
        self._cache = cache
        self._policy = policy
        self._issuers = issuers
        self._clock = clock
        self._fetches: Flights[Answer] = Flights(_MAX_FETCHES)

    async def answer(self, name: str) -> Answer:
        """Give the answer for a normalised name.

        :raises NotPermitted: no rule covers it.
        :raises CertServerError: no certificate could be had.
        """
        answer = self._cache.get(name)
        if answer is not None:
            return answer
        decision = self._policy.decide(name)
        if self._fetches.full and name not in self._fetches:
            raise Overloaded(f"{name}: {_MAX_FETCHES} names wait for their certificates already", _ASK_AGAIN)
        try:
            async with asyncio.timeout(ANSWER_DEADLINE):
                return await self._fetches.join(name, lambda: self._fetch(name, decision))
        except TimeoutError as error:
            raise DeadlineExceeded(f"no certificate for {name} in time; the work goes on", _ASK_AGAIN) from error

    def replace(self, name: str, certificate: Certificate) -> None:
        """Hand out the ACME certificate that was just stored for a name, where the name is in use at all."""
        if name in self._cache or name in self._fetches:
            self._remember(name, certificate, self._issuers[Source.ACME])

    async def close(self) -> None:
        """Give up what is under way."""
        await self._fetches.close()

    async def _fetch(self, name: str, decision: Decision) -> Answer:
        issuer = self._issuers[decision.source]
        return self._remember(name, await issuer.obtain(name, decision.cert_key), issuer)

    def _remember(self, name: str, certificate: Certificate, issuer: Issuer) -> Answer:
        known = self._cache.get(name)
        if known is not None and known.certificate.not_before > certificate.not_before:
            return known  # renewed while this one was being read
        answer = make_answer(certificate, issuer.type, issuer.fresh_until(certificate))
        if not answer.holds(self._clock):
            raise InvalidCertificate(f"the certificate for {name} expired just now")
        self._cache.put(name, answer)
        return answer
