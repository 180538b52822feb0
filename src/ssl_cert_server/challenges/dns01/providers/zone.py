"""In which zone a record is to be changed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from ssl_cert_server.errors import ChallengeFailed, LookupFailed

FindZone = Callable[[str], Awaitable[str]]
"""Gives the apex of the zone that holds a name, without a trailing dot; raises LookupFailed."""


async def zone_of(record: str, configured: str | None, find_zone: FindZone, what: str) -> str:
    """Give the zone's name, without a trailing dot: the configured one, else what the DNS says.

    :raises ChallengeFailed: the record isn't in the configured zone, or the DNS doesn't tell; it begins with ``what``.
    """
    if configured is None:
        try:
            return await find_zone(record)
        except LookupFailed as failure:
            raise ChallengeFailed(f"{what}: its zone can't be found ({failure}); give it as zone") from failure
    zone = configured.rstrip(".").lower()
    if not f".{record}".endswith(f".{zone}"):
        raise ChallengeFailed(f"{what}: it is not in the zone {zone} that is configured")
    return zone
