"""The ACME account: one per CA, its key persisted before it is used, registered under a lease."""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import dataclass
from urllib.parse import urlsplit

import structlog

from ssl_cert_server.acme.client import AcmeClient
from ssl_cert_server.acme.jose import AccountKey
from ssl_cert_server.acme.session import AcmeSession
from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import InvalidCertificate, StorageError
from ssl_cert_server.storage.base import Lease, Storage
from ssl_cert_server.storage.leasing import leased

_log = structlog.get_logger()

_PREDECESSOR_KEY = "acme_account+key"
# The predecessor knew these two CAs, and kept one key for whichever it used.
_PREDECESSOR_CAS = frozenset({"acme-v02.api.letsencrypt.org", "acme-staging-v02.api.letsencrypt.org"})


@dataclass(frozen=True, slots=True)
class AccountPlace:
    """Where an account's key and URL are kept."""

    key: str
    url: str

    @classmethod
    def at(cls, directory_url: str) -> AccountPlace:
        """Give the place for a CA's account: the predecessor's where it had one there, else one of its own."""
        host = urlsplit(directory_url).hostname or ""
        ca = f"{host}-{hashlib.sha256(directory_url.encode()).hexdigest()[:8]}"
        key = _PREDECESSOR_KEY if host in _PREDECESSOR_CAS else f"_accounts/{ca}.key"
        return cls(key, f"_accounts/{ca}.json")


class AcmeAccount:
    """The account this server has, or gets, at one CA. ``email`` may be empty."""

    def __init__(self, storage: Storage, client: AcmeClient, clock: Clock, *, directory_url: str, email: str) -> None:
        self._storage = storage
        self._client = client
        self._clock = clock
        self._directory_url = directory_url
        self._contact = (f"mailto:{email}",) if email else ()
        self._place = AccountPlace.at(directory_url)
        self._session: AcmeSession | None = None
        self._opening = asyncio.Lock()

    async def session(self) -> AcmeSession:
        """Give the session that works as this account, registered at the first call over all instances.

        :raises AcmeError: the CA gives no account.
        :raises StorageError: key or account can't be kept.
        """
        async with self._opening:
            if self._session is None:
                self._session = await self._stored_session() or await self._register()
            return self._session

    async def forget(self, session: AcmeSession) -> None:
        """Register anew at the next call, with the same key: the CA doesn't know the account any more."""
        async with self._opening:
            if self._session is session:
                self._session = None
                await self._storage.delete(self._place.url)

    async def _stored_session(self) -> AcmeSession | None:
        key = await self._storage.get(self._place.key)
        url = _account_url(await self._storage.get(self._place.url))
        return AcmeSession(self._client, self._parse_key(key), url) if key and url else None

    async def _register(self) -> AcmeSession:
        async with leased(self._storage, self._place.url, self._clock) as lease:
            session = await self._stored_session()
            if session is not None:
                return session  # a peer was faster
            key = await self._kept_key(lease)
            url = await self._client.new_account(key, self._contact)
            record = {"url": url, "directory_url": self._directory_url}
            await self._storage.put(self._place.url, json.dumps(record).encode(), lease=lease)
        _log.info("acme.account.registered", directory_url=self._directory_url, account=url)
        return AcmeSession(self._client, key, url)

    async def _kept_key(self, lease: Lease) -> AccountKey:
        stored = await self._storage.get(self._place.key)
        if stored is not None:
            return self._parse_key(stored)
        key = AccountKey.generate()
        await self._storage.put(self._place.key, key.to_pem(), lease=lease)
        return key

    def _parse_key(self, stored: bytes) -> AccountKey:
        try:
            return AccountKey.from_pem(stored)
        except InvalidCertificate as error:
            # Never replaced by itself: certificates and limits hang on this account.
            raise StorageError(
                f"the ACME account key under {self._place.key} can't be used ({error}); restore it, or remove it to "
                "register a new account"
            ) from error


def _account_url(stored: bytes | None) -> str | None:
    try:
        return str(json.loads(stored or b"")["url"])
    except (ValueError, KeyError, TypeError):
        return None
