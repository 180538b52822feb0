"""Waiting until every authoritative server shows a TXT value, so that the CA can't ask one that doesn't."""

from __future__ import annotations

import asyncio
import ipaddress
from dataclasses import dataclass

from ssl_cert_server.clock import Clock
from ssl_cert_server.dns.resolver import Resolver
from ssl_cert_server.errors import ChallengeFailed, LookupFailed
from ssl_cert_server.pki.names import is_ip

_SIDE_BY_SIDE = 10
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 10.0
_TOLD = 8
_WORDS = 200


@dataclass(frozen=True, slots=True)
class _NameServer:
    """A host, and the (IP address, port) pairs at which it is asked."""

    host: str
    addresses: tuple[tuple[str, int], ...]


class Propagation:
    """One value on its way to the servers that a CA may ask.

    A server shows the value when each of its addresses does, but for one rule: where an IPv4 address shows it, an
    IPv6 address that gives no usable answer doesn't count. Many machines have no IPv6, and name servers are
    announced with addresses that were never set up.
    """

    def __init__(self, resolver: Resolver, clock: Clock, record: str, value: str) -> None:
        self._resolver = resolver
        self._clock = clock
        self._record = record
        self._value = value
        self._servers: tuple[_NameServer, ...] = ()
        self._said: dict[tuple[str, int], str] = {}
        self._shown: set[tuple[str, int]] = set()
        self._unanswered: set[tuple[str, int]] = set()

    async def wait(self, nameservers: tuple[tuple[str, int], ...], timeout: float) -> int:
        """Return when every server shows the value: how many addresses do.

        ``nameservers`` as in :class:`~.zones.ZoneProvider`; ``timeout`` in seconds, of which the last question may
        take a few more.

        :raises ChallengeFailed: not all did within the time; the message tells what each of them said.
        """
        end = self._clock.monotonic() + timeout
        pause = _FIRST_PAUSE
        problem = await self._look(nameservers)
        while problem:
            rest = pause * (0.75 + self._clock.random() / 2)
            if self._clock.monotonic() + rest > end:
                raise ChallengeFailed(f"{self._record} was set, but after {timeout:g} s {problem}")
            await self._clock.sleep(rest)
            pause = min(pause * 1.5, _LONGEST_PAUSE)
            problem = await self._look(nameservers)
        return len(self._shown)

    async def _look(self, nameservers: tuple[tuple[str, int], ...]) -> str:
        """Ask those that didn't show it yet, and say in words what is missing; nothing where nothing is."""
        try:
            if not self._servers:
                self._servers = await self._find(nameservers)
        except LookupFailed as failure:
            return f"its name servers are still not known: {failure}"
        slots = asyncio.Semaphore(_SIDE_BY_SIDE)
        asked = {address for server in self._servers for address in server.addresses} - self._shown
        async with asyncio.TaskGroup() as group:
            for address in asked:
                group.create_task(self._ask(address, slots))
        missing = [server for server in self._servers if not self._shows(server)]
        return self._words(missing) if missing else ""

    async def _find(self, nameservers: tuple[tuple[str, int], ...]) -> tuple[_NameServer, ...]:
        if nameservers:
            return tuple([await self._configured(host, port) for host, port in nameservers])
        zone = await self._resolver.zone(self._record)
        port = self._resolver.authoritative_port
        return tuple(
            _NameServer(host, tuple((address, port) for address in addresses))
            for host, addresses in await self._resolver.authoritative(zone)
            if addresses  # what has none can't be asked by the CA either
        )

    async def _configured(self, host: str, port: int) -> _NameServer:
        addresses = (host,) if is_ip(host) else await self._resolver.addresses(host)
        if not addresses:
            raise LookupFailed(f"the name server {host} has no address")
        return _NameServer(host, tuple((address, port) for address in addresses))

    async def _ask(self, address: tuple[str, int], slots: asyncio.Semaphore) -> None:
        self._unanswered.discard(address)
        try:
            async with slots:
                values = await self._resolver.txt_at(*address, self._record)
        except LookupFailed as failure:
            self._unanswered.add(address)
            self._said[address] = str(failure)[:_WORDS]
            return
        if self._value in values:
            self._shown.add(address)
        else:
            self._said[address] = f"shows {len(values)} TXT values, not this one" if values else "shows no TXT record"

    def _shows(self, server: _NameServer) -> bool:
        missing = [address for address in server.addresses if address not in self._shown]
        if not missing:
            return True
        excused = all(_is_ipv6(address) and address in self._unanswered for address in missing)
        return excused and any(address in self._shown and not _is_ipv6(address) for address in server.addresses)

    def _words(self, missing: list[_NameServer]) -> str:
        told = [
            f"{server.host} ({address[0]} port {address[1]}): {self._said[address]}"
            for server in missing
            for address in server.addresses
            if address not in self._shown
        ]
        more = f"; and {len(told) - _TOLD} more" if len(told) > _TOLD else ""
        return (
            f"not every authoritative name server shows it (raise propagation_timeout if they need longer): "
            f"{'; '.join(told[:_TOLD])}{more}"
        )


def _is_ipv6(address: tuple[str, int]) -> bool:
    return ipaddress.ip_address(address[0]).version == 6
