"""File descriptors: the process's limit, and the bounds that follow from it."""

from __future__ import annotations

import resource
from contextlib import suppress
from dataclasses import dataclass

_MOST_CONNECTIONS = 16_384
"""More would cost memory (about 15 KB each), however many descriptors there are."""

_RESERVE = (64, 512)
"""Descriptors for storage, CAs, DNS and programs: a quarter of the limit, between these."""

_MOST_POLLS = 1_000
_MOST_TLS_ALPN01 = 100


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many connections there may be at once, and how many of them may wait."""

    connections: int
    """HTTP connections. The longest idle is closed for a new one."""

    waiting: int
    """HTTP requests that wait for a CA or storage, or poll: a quarter of the connections is left for known names."""

    polls: int
    """Requests for ``/v1/changes`` that wait."""

    tls_alpn01: int
    """Connections to the tls-alpn-01 listener."""


def bounds(limit: int) -> Bounds:
    """Return the bounds for a process that may have ``limit`` descriptors."""
    least, most = _RESERVE
    tls_alpn01 = max(1, min(_MOST_TLS_ALPN01, limit // 16))
    reserve = min(max(limit // 4, least), most) + tls_alpn01
    connections = max(8, min(limit - reserve, _MOST_CONNECTIONS))
    return Bounds(connections, connections * 3 // 4, min(_MOST_POLLS, connections // 2), tls_alpn01)


AMPLE = bounds(65_536)
"""Bounds for a process with plenty of descriptors."""


def raise_limit() -> int:
    """Raise the soft limit to the hard one, as far as the system allows it, and return the limit in effect."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # the system's own maximum (fs.nr_open) may be lower
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return limit if limit != resource.RLIM_INFINITY else _MOST_CONNECTIONS * 2
