"""The bounded memory that the hot path reads: names to finished answers, least recently used out."""

from __future__ import annotations

from collections import OrderedDict, defaultdict

from ssl_cert_server.clock import Clock
from ssl_cert_server.model import Certificate
from ssl_cert_server.service.answer import Answer

_STALE_FOR = 60.0


class AnswerCache:
    """At most about ``max_bytes`` of answers. One look-up answers a hot name."""

    def __init__(self, clock: Clock, max_bytes: int) -> None:
        self._clock = clock
        self._max_bytes = max_bytes
        self._bytes = 0
        self._answers: OrderedDict[str, tuple[Answer, int]] = OrderedDict()
        self._by_cert_key: defaultdict[str, set[str]] = defaultdict(set)

    def get(self, name: str) -> Answer | None:
        """Give the answer for a name where there is one that holds now."""
        entry = self._answers.get(name)
        if entry is None:
            return None
        answer = entry[0]
        if not answer.holds(self._clock):
            if answer.certificate.not_after <= self._clock.now():
                self.drop(name)
            return None
        self._answers.move_to_end(name)
        return answer

    def stale(self, name: str) -> Answer | None:
        """Give the answer for a name that is past its time, where its certificate is valid; it holds for a while again.

        For when nothing newer is to be had: a stale answer beats none.
        """
        entry = self._answers.get(name)
        if entry is None:
            return None
        answer = entry[0]
        answer.fresh_until = min(answer.certificate.not_after, self._clock.now() + _STALE_FOR)
        return answer if answer.holds(self._clock) else None

    def put(self, name: str, answer: Answer) -> None:
        """Keep an answer, and let the least recently used go where there is no room."""
        self.drop(name)
        size = answer.size + len(name)
        self._answers[name] = (answer, size)
        self._by_cert_key[answer.cert_key].add(name)
        self._bytes += size
        while self._bytes > self._max_bytes and len(self._answers) > 1:
            self.drop(next(iter(self._answers)))

    def drop(self, name: str) -> None:
        """Forget a name."""
        entry = self._answers.pop(name, None)
        if entry is None:
            return
        answer, size = entry
        self._bytes -= size
        names = self._by_cert_key[answer.cert_key]
        names.remove(name)
        if not names:
            del self._by_cert_key[answer.cert_key]

    def cert_keys(self) -> list[str]:
        """Give the keys of all certificates that are in use."""
        return [*self._by_cert_key]

    def certificate(self, cert_key: str) -> Certificate | None:
        """Return the certificate stored under ``cert_key`` that names are answered with; it may have expired."""
        names = self._by_cert_key.get(cert_key)
        return self._answers[next(iter(names))][0].certificate if names else None

    def names_of(self, cert_key: str) -> set[str]:
        """Give the names that are answered with the certificate stored under ``cert_key``."""
        return set(self._by_cert_key.get(cert_key, ()))

    def drop_certificate(self, cert_key: str) -> None:
        """Forget every name that is answered with the certificate stored under ``cert_key``."""
        for name in self.names_of(cert_key):
            self.drop(name)
