"""DNS as a test tells it: zones, name servers that lag or are dead, aliases, and a provider that sets values."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from ssl_cert_server.dns.resolver import Resolver
from ssl_cert_server.errors import ChallengeFailed, LookupFailed
from tests.support.clock import ManualClock

Address = tuple[str, int]


class FakeDns(Resolver):
    """Answers from its attributes; ``asked`` counts the questions to each authoritative server.

    ``values`` is what stands in DNS by record; a server shows it unless it is ``behind``, or in ``dead``, which gives
    the words of its failure.
    """

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.values: dict[str, list[str]] = {}
        self.aliases: dict[str, str] = {}
        self.zones: dict[str, dict[str, tuple[str, ...]]] = {"example.com": {"ns1.example.com": ("192.0.2.1",)}}
        self.hosts: dict[str, tuple[str, ...]] = {}
        self.behind: set[str] = set()
        self.dead: dict[str, str] = {}
        self.broken_lookups = 0
        self.asked: list[Address] = []
        self.side_by_side = 0
        self.most_side_by_side = 0

    async def addresses(self, name: str) -> tuple[str, ...]:
        await self._answer()
        return self.hosts.get(name, ())

    async def cname(self, name: str) -> str | None:
        await self._answer()
        return self.aliases.get(name)

    async def zone(self, name: str) -> str:
        await self._answer()
        found = [zone for zone in self.zones if name == zone or name.endswith(f".{zone}")]
        if not found:
            raise LookupFailed(f"no DNS zone holds {name}")
        return max(found, key=len)

    async def authoritative(self, zone: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
        await self._answer()
        return tuple(self.zones[zone].items())

    async def txt_at(self, server_address: str, port: int, name: str) -> tuple[str, ...]:
        self.asked.append((server_address, port))
        self.side_by_side += 1
        self.most_side_by_side = max(self.most_side_by_side, self.side_by_side)
        try:
            await asyncio.sleep(0)
        finally:
            self.side_by_side -= 1
        if server_address in self.dead:
            raise LookupFailed(self.dead[server_address])
        return () if server_address in self.behind else tuple(self.values.get(name, ()))

    async def _answer(self) -> None:
        await asyncio.sleep(0)
        if self.broken_lookups:
            self.broken_lookups -= 1
            raise LookupFailed("DNS gave no usable answer: 127.0.0.53 port 53: SERVFAIL")


class ScriptedProvider:
    """Reads a record set, and writes it whole a little later, as many providers do: two at once lose a value.

    ``broken`` decides for an operation (``add``, ``remove``) whether it fails; ``halfway`` whether it is carried out
    all the same. ``before`` is called first.
    """

    def __init__(self, values: dict[str, list[str]]) -> None:
        self.values = values
        self.calls: list[tuple[str, str, str]] = []
        self.broken: set[str] = set()
        self.halfway = False
        self.before: Callable[[], Awaitable[None]] | None = None

    async def add(self, record: str, value: str) -> None:
        await self._change("add", record, value)

    async def remove(self, record: str, value: str) -> None:
        await self._change("remove", record, value)

    async def _change(self, operation: str, record: str, value: str) -> None:
        self.calls.append((operation, record, value))
        if self.before:
            await self.before()
        if operation in self.broken and not self.halfway:
            raise ChallengeFailed(f"{record}: the provider is down")
        before = [other for other in self.values.get(record, []) if other != value]
        await asyncio.sleep(0)
        self.values[record] = [*before, value] if operation == "add" else before
        await asyncio.sleep(0)
        if operation in self.broken:
            raise ChallengeFailed(f"{record}: the provider closed the connection")
