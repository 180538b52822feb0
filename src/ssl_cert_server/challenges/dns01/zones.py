"""Which provider changes which zone, and where a challenge's record really stands."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from ssl_cert_server.challenges.dns01.provider import DnsProvider
from ssl_cert_server.dns.resolver import Resolver
from ssl_cert_server.errors import ChallengeFailed, LookupFailed

_MOST_ALIASES = 10
_RECORD = re.compile(r"(?=.{1,253}\Z)(?:[a-z0-9_-]{1,63}\.)+[a-z0-9_-]{1,63}")


@dataclass(frozen=True, slots=True)
class ZoneProvider:
    """A provider for the names in ``zone`` (lower case, no trailing dot), or for every other where it is empty.

    ``nameservers`` are (host or IP address, port) of the servers that have to show a value before the CA is told;
    where there are none, they are found through the zone's NS records.
    """

    zone: str
    provider: DnsProvider = field(repr=False)
    nameservers: tuple[tuple[str, int], ...] = ()


class Zones:
    """All that are configured."""

    def __init__(self, zones: Sequence[ZoneProvider]) -> None:
        self._by_zone = {zone.zone: zone for zone in zones}

    def named(self, zone: str) -> ZoneProvider | None:
        """Give the one for exactly this zone."""
        return self._by_zone.get(zone)

    def holding(self, name: str) -> ZoneProvider | None:
        """Give the one with the longest zone that holds a name."""
        labels = name.split(".")
        suffixes = (".".join(labels[start:]) for start in range(len(labels) + 1))
        return next((self._by_zone[suffix] for suffix in suffixes if suffix in self._by_zone), None)


async def where(resolver: Resolver, record: str) -> str:
    """Follow the CNAMEs of a record to the name at which a CA will look, 10 of them at most.

    :raises ChallengeFailed: they go round in a circle, never end, or end where no value can be set.
    """
    path = [record]
    while (target := await _alias(resolver, path[-1])) is not None:
        path.append(target)
        if target in path[:-1]:
            raise ChallengeFailed(f"{record} is delegated in a circle: {' -> '.join(path)}")
        if len(path) > _MOST_ALIASES + 1:
            raise ChallengeFailed(f"{record} is delegated through more than {_MOST_ALIASES} CNAMEs")
        if not _RECORD.fullmatch(target):
            raise ChallengeFailed(f"{path[-2]} is delegated to {target!r}, where no value can be set")
    return path[-1]


async def _alias(resolver: Resolver, name: str) -> str | None:
    try:
        return await resolver.cname(name)
    except LookupFailed as failure:
        raise ChallengeFailed(f"can't tell where {name} is delegated to: {failure}") from failure
