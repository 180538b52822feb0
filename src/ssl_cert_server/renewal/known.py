"""What renewal knows of every stored certificate, and when each is due."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from ssl_cert_server.clock import Clock
from ssl_cert_server.model import Certificate, Subject
from ssl_cert_server.renewal.queue import DueQueue
from ssl_cert_server.renewal.schedule import advised_at, priority_of, renew_at
from ssl_cert_server.service.budget.planner import Priority

_log = structlog.get_logger()

_LONGEST_REST = 86_400.0
_SHORTEST_REST = 3_600.0
# A certificate expired for longer is nobody's any more; the next request for its name issues on the fly.
_GIVE_UP_AFTER = 7 * 86_400.0
_FIRST_QUESTION = 3600.0
"""Seconds within which the CA is first asked for its advice: a restart must not ask for everything at once."""


@dataclass(frozen=True, slots=True)
class Known:
    """What renewal remembers of a certificate. Times are Unix seconds.

    It is not renewed before ``earliest``, nor for its CA's advice before ``heeded_from``.
    """

    subject: Subject
    fingerprint: str
    not_before: int
    not_after: int
    earliest: float
    heeded_from: float


class RenewalSchedule:
    """Knows of every certificate when it is due, and when its CA is asked for advice.

    ``renewals`` and ``questions`` hold storage keys.
    """

    def __init__(self, clock: Clock, renew_before: float | None) -> None:
        """``renew_before`` is in seconds; see :func:`~ssl_cert_server.renewal.schedule.renew_at`."""
        self._clock = clock
        self._renew_before = renew_before
        self._known: dict[str, Known] = {}
        self.renewals = DueQueue(clock)
        self.questions = DueQueue(clock)

    def add(self, subject: Subject, certificate: Certificate, earliest: float = 0.0, heeded_from: float = 0.0) -> None:
        """Have a certificate renewed when it is due, within bounds: see :class:`Known`.

        One known already keeps the time it has.
        """
        cert_key = subject.cert_key
        known = self._known.get(cert_key)
        if known and known.fingerprint == certificate.fingerprint:
            return
        not_before, not_after = certificate.not_before, certificate.not_after
        self._known[cert_key] = Known(subject, certificate.fingerprint, not_before, not_after, earliest, heeded_from)
        due = renew_at(not_before, not_after, self._clock.random(), self._renew_before)
        self.renewals.add(cert_key, max(due, earliest), not_after)
        self.questions.add(cert_key, self._clock.now() + _FIRST_QUESTION * self._clock.random())

    def add_new(self, subject: Subject, certificate: Certificate) -> None:
        """Have a certificate that was just issued renewed when it is due, but not at once.

        Where a clock is wrong, even a new certificate may look as if it were due. And a CA may revoke what it issued an
        hour ago: its advice is heeded soon, but not time after time, for its windows may always lie in the past.
        """
        now, rest = self._clock.now(), min(certificate.lifetime / 4, _LONGEST_REST)
        before = self._known.get(subject.cert_key)
        early = before is not None and now < before.earliest
        self.add(subject, certificate, now + rest, now + (rest if early else min(rest, _SHORTEST_REST)))

    def advise(self, cert_key: str, drawn: float) -> None:
        """Have a certificate renewed when its CA says so."""
        known = self._known[cert_key]
        if cert_key in self.renewals:  # else it is being renewed right now
            at = max(advised_at(drawn, known.not_before, known.not_after), known.heeded_from)
            self.renewals.add(cert_key, at, known.not_after)

    def known(self, cert_key: str) -> Known | None:
        """Give what is remembered of a certificate that was added."""
        return self._known.get(cert_key)

    def again(self, known: Known, seconds: float) -> None:
        """Try a certificate again later, unless it expired long ago, or was replaced meanwhile."""
        cert_key = known.subject.cert_key
        if self._known.get(cert_key) is not known:
            return
        if self._clock.now() > known.not_after + _GIVE_UP_AFTER:
            self.forget(cert_key)
            _log.warning("renewal.given_up", cert_key=cert_key, remedy="the next request for it issues on the fly")
            return
        if priority_of(self._clock.now(), known.not_before, known.not_after) is Priority.EXPIRING:
            # CAs don't send mails about it any more.
            _log.error(
                "renewal.expiring",
                cert_key=cert_key,
                days_left=round((known.not_after - self._clock.now()) / 86_400, 1),
                remedy=f"ssl-cert-server why {known.subject.names[0]}",
            )
        at = self._clock.now() + seconds * (1 + self._clock.random() / 10)
        self.renewals.add(cert_key, at, known.not_after)

    def forget(self, cert_key: str) -> None:
        """Know nothing of a certificate any more."""
        self._known.pop(cert_key, None)
        self.renewals.remove(cert_key)
        self.questions.remove(cert_key)
