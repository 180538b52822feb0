"""Looking at what the CA will look at, before it does: where a name leads, and whom its CAA records permit.

A validation that must fail costs the CA's budget and blocks the name for an hour. What we could not find out refuses
nothing: the CA sees the DNS from elsewhere, and its word counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import structlog

from ssl_cert_server.dns.resolver import CaaRecord
from ssl_cert_server.errors import LookupFailed, PreflightFailed
from ssl_cert_server.pki.names import is_ip
from ssl_cert_server.service.caa import CaaVerdict, permitted_methods
from ssl_cert_server.service.public_ips import Network, PublicIps

_log = structlog.get_logger()

CHECK_DEADLINE = 5.0
"""Seconds after which a question to the DNS is given up, and what it was for counts as fine."""

_SIDE_BY_SIDE = 32
_MOST_NAMES = 3
_OVER_AN_ADDRESS = frozenset({"http-01", "tls-alpn-01"})

_T = TypeVar("_T")


class Lookups(Protocol):
    """What is asked of the DNS; both raise LookupFailed."""

    async def addresses(self, name: str) -> tuple[str, ...]:
        """A and AAAA, CNAMEs followed; empty where there are none."""

    async def caa(self, name: str) -> Sequence[CaaRecord]:
        """Those at exactly that name."""


@dataclass(frozen=True, slots=True)
class _Finding:
    """The challenge types that are left for a name, and why others are not."""

    name: str
    methods: tuple[str, ...]
    objections: tuple[str, ...]


class Preflight:
    """Checks names before an order. ``public_ips`` are ours; where empty, addresses are not looked at."""

    def __init__(self, resolver: Lookups, *, public_ips: Sequence[str | Network], caa: bool = True) -> None:
        self._resolver = resolver
        self._public_ips = PublicIps(public_ips)
        self._caa = caa
        self._slots = asyncio.Semaphore(_SIDE_BY_SIDE)

    async def check(
        self,
        names: Sequence[str],
        methods: Mapping[str, Sequence[str]],
        *,
        caa_identities: Sequence[str],
        account_url: str | None,
    ) -> Mapping[str, tuple[str, ...]]:
        """Give what is left of each name's ``methods``: the challenge types we could use, best first, at least one.

        ``names`` are as they are ordered, wildcards and IP addresses included. ``caa_identities`` are the CA's issuer
        domain names; where empty, CAA is not looked at. It ends within :data:`CHECK_DEADLINE`.

        :raises PreflightFailed: for some name nothing is left.
        """
        identities = caa_identities if self._caa else ()
        async with asyncio.TaskGroup() as group:
            checks = [
                group.create_task(self._check(name, tuple(methods[name]), identities, account_url)) for name in names
            ]
        findings = [check.result() for check in checks]
        refused = [finding for finding in findings if not finding.methods]
        if refused:
            raise PreflightFailed(_words(refused))
        return {finding.name: finding.methods for finding in findings}

    async def _check(
        self, name: str, methods: tuple[str, ...], identities: Sequence[str], account_url: str | None
    ) -> _Finding:
        astray, caa = await asyncio.gather(self._astray(name, methods), self._relevant_caa(name, identities))
        left, objections = methods, []
        if astray:
            left = tuple(method for method in left if method not in _OVER_AN_ADDRESS)
            objections.append(astray)
        if caa is not None and left:
            at, records = caa
            verdict = permitted_methods(
                records, left, wildcard=name.startswith("*."), identities=identities, account_url=account_url
            )
            left = verdict.methods
            objections += _caa_objections(name, at, verdict)
        if left and objections:
            _log.info("preflight.narrowed", name=name, methods=left, reason="; ".join(objections))
        return _Finding(name, left, tuple(objections))

    async def _astray(self, name: str, methods: Sequence[str]) -> str:
        """Say why a CA that connects to the name would not reach us; nothing where it would, or nobody knows."""
        if not self._public_ips or _OVER_AN_ADDRESS.isdisjoint(methods):
            return ""
        if is_ip(name):
            return self._public_ips.objection(name, [name])
        host = name.removeprefix("*.")
        addresses = await self._asked("addresses", name, lambda: self._resolver.addresses(host))
        return "" if addresses is None else self._public_ips.objection(host, addresses)

    async def _relevant_caa(self, name: str, identities: Sequence[str]) -> tuple[str, Sequence[CaaRecord]] | None:
        """Give where the CAA records that hold for a name stand, and them; None where none do, or nobody knows."""
        if not identities or is_ip(name):
            return None
        return await self._asked("caa", name, lambda: self._climb(name.removeprefix("*.")))

    async def _climb(self, name: str) -> tuple[str, Sequence[CaaRecord]] | None:
        """Go up from the name to the top-level domain (RFC 8659 section 3)."""
        at = name
        while at:
            records = await self._resolver.caa(at)
            if records:
                return at, records
            at = at.partition(".")[2]
        return None

    async def _asked(self, what: str, name: str, question: Callable[[], Awaitable[_T]]) -> _T | None:
        try:
            async with asyncio.timeout(CHECK_DEADLINE), self._slots:
                return await question()
        except TimeoutError:
            reason = f"no answer within {CHECK_DEADLINE:g} s"
        except LookupFailed as error:
            reason = str(error)
        _log.info("preflight.skipped", name=name, what=what, reason=reason)
        return None


def _caa_objections(name: str, at: str, verdict: CaaVerdict) -> list[str]:
    if not verdict.reason:
        return []
    where = at if at == name else f"{at}, which hold for {name},"
    return [f"the CAA records at {where} {verdict.reason}"]


def _words(refused: Sequence[_Finding]) -> str:
    found = [objection for finding in refused[:_MOST_NAMES] for objection in finding.objections]
    more = len(refused) - _MOST_NAMES
    if more > 0:
        found.append(f"the same or the like holds for {more} more names")
    return "; ".join([*found, "nothing was asked of the CA"])
