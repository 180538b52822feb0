"""What the rest of the server asks the DNS, in plain values."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rdata
import dns.rdatatype
import dns.resolver
from dns.rdtypes.ANY.CAA import CAA
from dns.rdtypes.ANY.CNAME import CNAME
from dns.rdtypes.ANY.NS import NS
from dns.rdtypes.ANY.TXT import TXT
from dns.rdtypes.IN.A import A
from dns.rdtypes.IN.AAAA import AAAA

from ssl_cert_server.clock import Clock
from ssl_cert_server.dns.asking import ask
from ssl_cert_server.dns.exchange import Exchange, Server, exchange
from ssl_cert_server.errors import LookupFailed

QUESTION_DEADLINE = 5.0
"""Seconds for one question in all, whatever it takes to get it answered."""

_R = TypeVar("_R", bound=dns.rdata.Rdata)
_RECURSIVE = int(dns.flags.RD)
_DIRECT = 0


@dataclass(frozen=True, slots=True)
class CaaRecord:
    """One CAA record (RFC 8659 section 4): ``tag`` is lower case, ``value`` as it stands in the zone."""

    flags: int
    tag: str
    value: str


class Resolver:
    """Asks a recursive resolver, or one authoritative server directly.

    Names are given with or without a trailing dot, in any case, and come back in lower case without one. A name that
    doesn't exist, or has no such record, is an empty answer. Nothing is cached: the resolver asked does that.

    Every method raises :class:`~ssl_cert_server.errors.LookupFailed` where no server gave a usable answer within
    the deadline: it says for which name and question, and what each server said.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        nameservers: Sequence[Server] = (),
        authoritative_port: int = 53,
        deadline: float = QUESTION_DEADLINE,
        exchange: Exchange = exchange,
    ) -> None:
        """``nameservers`` are (IP address, port) of recursive resolvers; where empty, the system's own.

        ``authoritative_port`` is where authoritative servers listen; ``deadline`` is in seconds, for each question.
        """
        self.authoritative_port = authoritative_port
        self._clock = clock
        self._nameservers = tuple(nameservers)
        self._deadline = deadline
        self._exchange = exchange

    async def addresses(self, name: str) -> tuple[str, ...]:
        """Give the IPv4 and then the IPv6 addresses of a host, CNAMEs followed."""
        addresses, failures = await self._addresses(name)
        if failures:
            raise failures[0]
        return addresses

    async def cname(self, name: str) -> str | None:
        """Tell what a name is an alias of, one step; None where it is none."""
        targets = [_text(record.target) for record in await self._records(name, CNAME)]
        return targets[0] if targets else None

    async def caa(self, name: str) -> list[CaaRecord]:
        """Give the CAA records of that very name, aliases followed; climbing the tree is the caller's."""
        records = await self._records(name, CAA)
        return [
            CaaRecord(record.flags, record.tag.decode("ascii", "replace").lower(), _utf8(record.value))
            for record in records
        ]

    async def zone(self, name: str) -> str:
        """Find the apex of the zone that holds a name, whether or not the name exists.

        :raises LookupFailed: also where no zone below the root holds it.
        """
        for candidate in _climb(_name(name)):
            answer = await self._ask(candidate, dns.rdatatype.SOA)
            apex = _apex(answer, candidate)
            if apex is not None and apex != dns.name.root:
                return _text(apex)
        raise LookupFailed(f"no DNS zone holds {name}: is its domain registered and delegated?")

    async def authoritative(self, zone: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Give every name server of a zone with its addresses, in the names' order.

        A name server that has no address, or whose address can't be found though another's can, has ``()``: nobody
        can ask it, the CA neither.

        :raises LookupFailed: also where none has an address.
        """
        hosts = sorted({_text(record.target) for record in await self._records(zone, NS)})
        found = await asyncio.gather(*(self._addresses(host) for host in hosts))
        servers = tuple((host, addresses) for host, (addresses, _) in zip(hosts, found, strict=True))
        if any(addresses for _, addresses in servers):
            return servers
        for _, failures in found:
            if failures:
                raise failures[0]
        raise LookupFailed(f"the zone {zone} has no name server with an address: NS {', '.join(hosts) or 'none'}")

    async def txt_at(self, server_address: str, port: int, name: str) -> tuple[str, ...]:
        """Ask one server itself, not recursively, for the TXT values of a name; each value's strings are joined."""
        records = await self._records(name, TXT, at=(server_address, port))
        return tuple(_utf8(b"".join(record.strings)) for record in records)

    async def _addresses(self, host: str) -> tuple[tuple[str, ...], list[LookupFailed]]:
        addresses: list[str] = []
        failures: list[LookupFailed] = []
        for answer in await asyncio.gather(self._family(host, A), self._family(host, AAAA)):
            if isinstance(answer, LookupFailed):
                failures.append(answer)
            else:
                addresses += answer
        return tuple(addresses), failures

    async def _family(self, host: str, kind: type[A] | type[AAAA]) -> list[str] | LookupFailed:
        try:
            return [record.address for record in await self._records(host, kind)]
        except LookupFailed as failure:
            return failure

    async def _records(self, name: str, kind: type[_R], *, at: Server | None = None) -> list[_R]:
        answer = await self._ask(_name(name), dns.rdatatype.from_text(kind.__name__), at=at)
        try:
            found = answer.resolve_chaining().answer
        except dns.exception.DNSException as error:
            words = f"DNS answered {name} {kind.__name__} with nonsense ({type(error).__name__})"
            raise LookupFailed(words) from error
        return [record for record in found or () if isinstance(record, kind)]

    async def _ask(
        self, name: dns.name.Name, kind: dns.rdatatype.RdataType, *, at: Server | None = None
    ) -> dns.message.QueryMessage:
        # Without EDNS: no server fails at that, and what doesn't fit comes over TCP.
        question = dns.message.make_query(name, kind, flags=_DIRECT if at else _RECURSIVE)
        servers = (at,) if at else self._nameservers or _system_nameservers()
        return await ask(question, servers, self._exchange, self._clock, self._deadline)


def _system_nameservers() -> tuple[Server, ...]:
    # Read for every question: it is short, and it changes under a running server.
    try:
        system = dns.resolver.Resolver()
    except dns.exception.DNSException as error:
        raise LookupFailed(f"no DNS resolver is configured on this machine: {error}") from error
    return tuple((str(server), system.port) for server in system.nameservers)


def _name(text: str) -> dns.name.Name:
    try:
        return dns.name.from_text(text.lower())
    except dns.exception.DNSException as error:
        raise LookupFailed(f"{text[:300]!r} can't be asked of the DNS ({type(error).__name__})") from error


def _text(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).lower()


def _utf8(text: bytes) -> str:
    return text.decode("utf-8", "replace")


def _climb(name: dns.name.Name) -> Iterator[dns.name.Name]:
    while name != dns.name.root:
        yield name
        name = name.parent()


def _apex(answer: dns.message.QueryMessage, asked: dns.name.Name) -> dns.name.Name | None:
    """Read off an answer to SOA the zone that holds the name: its own, or the one that says that there is none."""
    sections = [*answer.answer, *answer.authority]
    # Of an alias, the rest of the answer is about its target.
    if any(rrset.rdtype == dns.rdatatype.CNAME for rrset in answer.answer):
        return None
    owners = (rrset.name for rrset in sections if rrset.rdtype == dns.rdatatype.SOA)
    return next((owner for owner in owners if asked.is_subdomain(owner)), None)
