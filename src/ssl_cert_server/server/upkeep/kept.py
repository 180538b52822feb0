"""Where in storage everything lies, and under which lease it is written."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

from ssl_cert_server.config.schema import Config
from ssl_cert_server.issuers.account import AccountPlace
from ssl_cert_server.ocsp.staples import FOLDER as STAPLE_FOLDER
from ssl_cert_server.renewal.plan import EXPIRIES, PARKED, QUESTIONS, RENEWALS, STAPLES
from ssl_cert_server.service.budget.buckets import LimitKind, folder
from ssl_cert_server.storage.base import Storage
from ssl_cert_server.storage.guarded import MARKS
from ssl_cert_server.storage.removals import FOLDER as REMOVALS

QUEUES = (RENEWALS, QUESTIONS, PARKED, EXPIRIES, STAPLES)

ACCOUNT_KEY = "acme_account+key"
_ACCOUNTS = "_accounts"
_FOLDERS = (
    _ACCOUNTS,
    "_local_ca",
    "",
    "_issued",
    REMOVALS,
    f"{REMOVALS}/{_ACCOUNTS}",
    STAPLE_FOLDER,
    "_state",
    "_challenges/http-01",
    "_challenges/tls-alpn-01",
    "_challenges/dns-01",
    "_ask",
)
_ON_DEMAND = "on_demand"
_CERTIFICATES = frozenset({"_issued", REMOVALS, "_state"})


class Kept:
    """Lists what is kept. Storage lists single folders only, so those of the budgets are found by the configuration."""

    def __init__(self, *configs: Config) -> None:
        """Several configurations are those of storages between which something is copied."""
        self._directory_urls = [*dict.fromkeys(ca.directory_url for config in configs for ca in config.cas)]
        self._self_signed = {config.self_signed.cert_key for config in configs}

    async def folders(self, storage: Storage) -> list[str]:
        """Give every folder that may hold something, what is needed first of all first.

        :raises StorageError: it can't be read.
        """
        accounts = [_ON_DEMAND]
        for directory_url in self._directory_urls:
            account_url = _account_url(await storage.get(AccountPlace.at(directory_url).url))
            if account_url:
                accounts.append(f"{directory_url} {account_url}")
        budgets = (folder(account, kind) for account in accounts for kind in LimitKind)
        return [*_FOLDERS, *budgets, MARKS]  # servers that miss their mark go on when it is there, so it is the last

    async def keys(self, storage: Storage) -> AsyncIterator[str]:
        """Iterate over every key, marks left out: a server that was only started leaves one.

        :raises StorageError: it can't be listed.
        """
        for place in await self.folders(storage):
            if place != MARKS:
                async for key in storage.list(place):
                    yield key

    def lease(self, key: str) -> str:
        """Name the lease under which a value is written by the servers, so that nothing of theirs is overwritten."""
        place, _, rest = key.rpartition("/")
        if place in _CERTIFICATES:
            return f"certificates/{rest}"
        if place == _ACCOUNTS:
            return f"{_ACCOUNTS}/{_ca_of(rest)}.json"
        if place.startswith("_budgets/"):
            return f"budgets/{place.split('/')[1]}"
        if place:
            return key.removeprefix("_challenges/").removeprefix("_")
        if key == ACCOUNT_KEY:
            return self._predecessors_account()
        return f"self_signed/{key}" if key in self._self_signed else f"certificates/{key}"

    def is_certificate(self, key: str) -> bool:
        """Return whether a certificate is stored under a key, or should be."""
        return key != ACCOUNT_KEY and ("/" not in key or key.startswith("_local_ca/"))

    def _predecessors_account(self) -> str:
        """Name the lease of the account whose key stands at the top level."""
        places = [AccountPlace.at(directory_url) for directory_url in self._directory_urls]
        return next((place.url for place in places if place.key == ACCOUNT_KEY), ACCOUNT_KEY)


def one_at_a_time(place: str) -> bool:
    """Tell whether values in a folder would wait for each other's leases."""
    return place == _ACCOUNTS or shares_a_lease(place)


def shares_a_lease(place: str) -> bool:
    """Tell whether all that is in a folder is written under one lease."""
    return place.startswith("_budgets/")


def _ca_of(file: str) -> str:
    for suffix in (".next.key", ".key", ".json"):
        if file.endswith(suffix):
            return file.removesuffix(suffix)
    return file


def _account_url(stored: bytes | None) -> str:
    try:
        return str(json.loads(stored or b"")["url"])
    except (ValueError, KeyError, TypeError):
        return ""
