"""Asking the operator's own endpoint whether a name may have a certificate."""

from __future__ import annotations

import asyncio
from urllib.parse import urlencode

import httpx2
import structlog

from ssl_cert_server.acme.outgoing import FAILURES, HEADERS, reason_of
from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import AskFailed
from ssl_cert_server.service.breaker import Breaker
from ssl_cert_server.service.flights import Flights
from ssl_cert_server.service.remembered import RememberedNames
from ssl_cert_server.service.verdicts import SharedVerdicts

_log = structlog.get_logger()

SIDE_BY_SIDE = 64
"""Questions to the endpoint at a time."""

MAX_BODY = 64 * 1024
"""Bytes that are read of an answer, which keeps the connection; a longer one is closed instead."""

_VERDICTS = 100_000
_SPREAD = 0.1
_FAILURES = 1_000
_FAILURE_TTL = 1.0
_WARN_EVERY = 60.0
# Too many questions, and a time-out of the endpoint's own, say nothing about the name.
_NO_VERDICT = frozenset({408, 429})


class Ask:
    """GETs ``url`` with ``domain=<name>`` added to its query: 2xx permits the name, 3xx and 4xx refuse it.

    Anything else is no verdict. An endpoint that does not answer at all is left alone for a while; one that answers is
    not, whatever it says, or strangers with names that it stumbles over would shut it for customers. ``timeout``,
    ``allowed_ttl`` and ``refused_ttl`` are in seconds.
    Verdicts are kept for their ttl, less up to a tenth at random, 100,000 of each kind: names that are refused push
    out none that are permitted. What is permitted is ``shared`` with other instances.
    ``http`` belongs to the caller; one that goes by the environment (``trust_env``) would
    send the questions through its proxies.
    """

    def __init__(
        self,
        http: httpx2.AsyncClient,
        clock: Clock,
        *,
        url: str,
        timeout: float = 2.0,
        allowed_ttl: float = 3600.0,
        refused_ttl: float = 300.0,
        shared: SharedVerdicts | None = None,
    ) -> None:
        self._http = http
        self._shared = shared
        self._clock = clock
        self._url = httpx2.URL(url)
        self._timeout = timeout
        self._allowed_ttl = allowed_ttl
        self._refused_ttl = refused_ttl
        self._allowed = RememberedNames(clock, _VERDICTS)
        self._refused = RememberedNames(clock, _VERDICTS)
        self._failed = RememberedNames(clock, _FAILURES)
        self._breaker = Breaker(clock, probe=timeout)
        self._questions: Flights[bool] = Flights(SIDE_BY_SIDE)
        self._warned_at = float("-inf")

    async def permitted(self, name: str, *, fresh: bool = False) -> bool:
        """Tell whether the endpoint permits a name, as ordered; where ``fresh``, no yes of earlier counts.

        :raises AskFailed: it gave no verdict, now or a moment ago, or too many questions wait for theirs.
        :raises Unavailable: the server is stopping.
        """
        if not fresh and name in self._allowed:
            return True
        if name in self._refused:
            return False
        # Nobody but the first to ask needs to be admitted: the others wait for the same verdict.
        if not fresh and self._shared is not None and name not in self._questions:
            permitted_for = await self._shared.allowed_for(name)
            if permitted_for:
                self._allowed.add(name, permitted_for)
                return True
        return await self._questions.join(name, lambda: self._question(name, self._admit(name)))

    async def close(self) -> None:
        """Give up the questions under way."""
        await self._questions.close()

    def _admit(self, name: str) -> int:
        if self._questions.full:
            raise AskFailed(f"{name}: {SIDE_BY_SIDE} questions wait for the endpoint of ask already", _FAILURE_TTL)
        if name in self._failed:
            raise AskFailed(f"{name}: the endpoint of ask gave no verdict a moment ago", _FAILURE_TTL)
        pause = self._breaker.pause
        if pause:
            raise AskFailed(f"{name}: the endpoint of ask failed, and is left alone for a while", pause)
        return self._breaker.admit()

    async def _question(self, name: str, admitted: int) -> bool:
        try:
            status = await self._get(name)
        except TimeoutError as error:
            raise self._no_answer(name, admitted, f"no answer within {self._timeout:g} s") from error
        except FAILURES as error:
            raise self._no_answer(name, admitted, reason_of(error, 200)) from error
        if self._breaker.worked(admitted):
            _log.info("ask.recovered")
        if not 200 <= status < 500 or status in _NO_VERDICT:
            self._warn(name, f"status {status} is no verdict")
            raise self._no_verdict(name, f"status {status}")
        if 300 <= status < 400:
            self._warn(name, f"status {status} refuses it: redirects are not followed, ask.url has to name their end")
        allowed = status < 300
        await self._remember(name, allowed=allowed)
        return allowed

    async def _get(self, name: str) -> int:
        """Give the answer's status, which is all that counts: not what becomes of its body."""
        query = b"&".join(filter(None, [self._url.query, urlencode({"domain": name}).encode("ascii")]))
        status = None
        try:
            async with (
                asyncio.timeout(self._timeout),
                self._http.stream(
                    "GET",
                    self._url.copy_with(query=query),
                    headers=HEADERS,
                    timeout=self._timeout,
                    follow_redirects=False,
                ) as response,
            ):
                status = response.status_code
                await _read(response)
        except (httpx2.HTTPError, httpx2.StreamError, OSError):
            if status is None:
                raise
        return status

    async def _remember(self, name: str, *, allowed: bool) -> None:
        keep, other = (self._allowed, self._refused) if allowed else (self._refused, self._allowed)
        ttl = self._allowed_ttl if allowed else self._refused_ttl
        other.drop(name)
        kept_for = ttl * (1 - _SPREAD * self._clock.random())
        keep.add(name, kept_for)
        if self._shared is not None:
            await (self._shared.allow(name, kept_for) if allowed else self._shared.refuse(name))

    def _no_answer(self, name: str, admitted: int, reason: str) -> AskFailed:
        if self._breaker.failed(admitted, name, answered=False):
            _log.error("ask.failed", reason=reason)
        return self._no_verdict(name, reason)

    def _no_verdict(self, name: str, reason: str) -> AskFailed:
        self._failed.add(name, _FAILURE_TTL)
        retry_after = max(_FAILURE_TTL, self._breaker.pause)
        return AskFailed(f"{name}: the endpoint of ask gave no verdict: {reason}", retry_after)

    def _warn(self, name: str, reason: str) -> None:
        """Tell of an answer that is hardly meant so; now and then, as strangers bring up the names."""
        now = self._clock.monotonic()
        if now >= self._warned_at + _WARN_EVERY:
            self._warned_at = now
            _log.warning("ask.odd_answer", name=name, reason=reason)


async def _read(response: httpx2.Response) -> None:
    size = 0
    async for chunk in response.aiter_raw():
        size += len(chunk)
        if size > MAX_BODY:
            return
