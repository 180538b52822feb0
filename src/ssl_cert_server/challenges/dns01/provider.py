"""What a DNS provider does for dns-01, whatever its API."""

from __future__ import annotations

from typing import Protocol


class DnsProvider(Protocol):
    """Adds and removes TXT values in zones that somebody's API, a DNS update or a program can change.

    A *record* is the absolute name of a TXT record set, lower case, without a trailing dot
    (``_acme-challenge.example.com``); a *value* is one of its strings, 43 characters of base64url. Only one call at a
    time is made for one record, over all instances.

    Both calls end within a deadline of the provider's own. A call that was cancelled or failed may have been carried
    out all the same: ``remove`` follows every ``add`` that was begun.
    """

    async def add(self, record: str, value: str) -> None:
        """Add a value to a record, and keep the others there; a value that is there already is no error.

        :raises ChallengeFailed: the provider refused or can't be reached; the message holds no secret.
        """

    async def remove(self, record: str, value: str) -> None:
        """Remove that value alone; one that isn't there is no error.

        :raises ChallengeFailed: the provider refused or can't be reached; the message holds no secret.
        """
