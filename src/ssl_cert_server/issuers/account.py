"""The ACME account: one per CA, its key persisted before it is used, registered under a lease."""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import dataclass
from urllib.parse import urlsplit

import structlog

from ssl_cert_server.acme.accounts import ExternalAccount
from ssl_cert_server.acme.client import AcmeClient
from ssl_cert_server.acme.jose import AccountKey
from ssl_cert_server.acme.session import AcmeSession
from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import AccountRefused, CaProblem, InvalidCertificate, StorageError
from ssl_cert_server.storage.base import Lease, Storage
from ssl_cert_server.storage.leasing import leased
from ssl_cert_server.storage.removals import load_removals, save_removals

_log = structlog.get_logger()

_REMOVAL_KEPT = 366 * 86_400.0
"""Seconds for which a removed account key is remembered: an instance may have it in memory for that long."""

_PREDECESSOR_KEY = "acme_account+key"
# The predecessor kept one key for Let's Encrypt and its staging CA. An account at that is worth nothing, and ending it
# or changing its key must not touch the other one's.
_PREDECESSOR_CA = "acme-v02.api.letsencrypt.org"


@dataclass(frozen=True, slots=True)
class AccountPlace:
    """Where an account's key and URL are kept, and ``next_key``: one that the CA may know already instead."""

    key: str
    url: str
    next_key: str

    @classmethod
    def at(cls, directory_url: str) -> AccountPlace:
        """Give the place for a CA's account: the predecessor's key for Let's Encrypt, else its own."""
        host = urlsplit(directory_url).hostname or ""
        ca = f"{host}-{hashlib.sha256(directory_url.encode()).hexdigest()[:8]}"
        key = _PREDECESSOR_KEY if host == _PREDECESSOR_CA else f"_accounts/{ca}.key"
        return cls(key, f"_accounts/{ca}.json", f"_accounts/{ca}.next.key")


class AcmeAccount:
    """The account this server has, or gets, at one CA. ``email`` may be empty."""

    def __init__(
        self,
        storage: Storage,
        client: AcmeClient,
        clock: Clock,
        *,
        directory_url: str,
        email: str,
        external: ExternalAccount | None = None,
    ) -> None:
        self._storage = storage
        self._client = client
        self._clock = clock
        self._directory_url = directory_url
        self._contact = (f"mailto:{email}",) if email else ()
        self._external = external
        self._place = AccountPlace.at(directory_url)
        self._session: AcmeSession | None = None
        self._stored: tuple[bytes, bytes] | None = None
        self._superseded: set[str] = set()
        """Digests of keys that were replaced while this instance ran."""
        self._opening = asyncio.Lock()

    async def session(self) -> AcmeSession:
        """Give the session that works as this account, registered at the first call over all instances.

        :raises AcmeError: the CA gives no account.
        :raises StorageError: key or account can't be kept.
        """
        async with self._opening:
            return await self._current() or await self._register()

    async def mend(self, session: AcmeSession, error: CaProblem) -> bool:
        """Tell whether what failed with ``error`` is worth doing again in a new session.

        It is where the account's key was changed meanwhile, by another instance or an operator, and where the CA
        doesn't know the account any more: the same key is registered anew then.
        """
        async with self._opening:
            if await self._current() is not session:
                return True
            if error.type != "accountDoesNotExist":
                return False
            _log.warning("acme.account.unknown", directory_url=self._directory_url, remedy="registering the key again")
            await self._storage.delete(self._place.url)
            # The next one may look the same; whoever failed with this one must see that it is another.
            self._session = None
            return True

    async def existing(self) -> AcmeSession | None:
        """Give the session where there is an account; none is registered.

        :raises StorageError: it can't be read.
        """
        async with self._opening:
            return await self._current()

    async def change_key(self) -> None:
        """Give the account a new key (RFC 8555 section 7.3.5). A crash on the way loses neither key.

        :raises CertServerError: it failed, and the old key goes on.
        """
        async with leased(self._storage, self._place.url, self._clock) as lease:
            session = await self._session_to_change(lease)
            key = AccountKey.generate()
            await self._storage.put(self._place.next_key, key.to_pem(), lease=lease)
            await session.change_key(key)
            await self._promote(key, lease)
        _log.info("acme.account.key_changed", directory_url=self._directory_url)

    async def deactivate(self) -> None:
        """End the account for good (section 7.3.6); the next issuance registers another one, with a new key.

        :raises CertServerError: it failed.
        """
        async with leased(self._storage, self._place.url, self._clock) as lease:
            session = await self._session_to_change(lease)
            try:
                await session.deactivate()
            except CaProblem as error:
                if error.type not in ("unauthorized", "accountDoesNotExist"):
                    raise
                # It is so already: an earlier attempt was cut short.
            await self._note_removal(lease)
            # The key first: what is left of an account after a crash is the URL, which is of no use without it.
            await self._storage.delete(self._place.key, lease=lease)
            await self._storage.delete(self._place.url, lease=lease)
        self._session = self._stored = None
        _log.info("acme.account.deactivated", directory_url=self._directory_url)

    async def _session_to_change(self, lease: Lease) -> AcmeSession:
        await self._finish_key_change(lease)
        session = await self._current()
        if session is None:
            raise StorageError(f"there is no account for {self._directory_url} in storage; nothing was changed")
        return session

    async def _current(self) -> AcmeSession | None:
        """Give the session for what is stored now; another instance may have changed it."""
        if await self._storage.get(self._place.next_key) is not None:
            return None
        key = await self._storage.get(self._place.key)
        record = await self._storage.get(self._place.url)
        url = _account_url(record)
        if key is None or record is None or url is None or _digest(key) in self._superseded:
            return None
        if self._session is None or self._stored != (key, record):
            if self._stored is not None and self._stored[0] != key:
                self._superseded.add(_digest(self._stored[0]))
            self._session, self._stored = AcmeSession(self._client, self._parse_key(key), url), (key, record)
        return self._session

    async def _register(self) -> AcmeSession:
        async with leased(self._storage, self._place.url, self._clock) as lease:
            await self._finish_key_change(lease)
            await self._write_back(lease)
            session = await self._current()
            if session is not None:
                return session  # a peer was faster
            key = await self._kept_key(lease)
            url = await self._new_account(key)
            record = {"url": url, "directory_url": self._directory_url}
            await self._storage.put(self._place.url, json.dumps(record).encode(), lease=lease)
            session = await self._current()
        _log.info("acme.account.registered", directory_url=self._directory_url, account=url)
        if session is None:
            raise StorageError(f"the account for {self._directory_url} was removed as soon as it was stored")
        return session

    async def _write_back(self, lease: Lease) -> None:
        """Store the account in memory again, where storage lost it, or went back to a key that was changed."""
        if self._stored is None:
            return
        key, record = self._stored
        stored = await self._storage.get(self._place.key)
        if stored is not None and _digest(stored) not in self._superseded:
            return
        if _digest(key) in await load_removals(self._storage, self._place.key):
            return  # it was deactivated, or its key was changed
        await self._storage.put(self._place.key, key, lease=lease)
        await self._storage.put(self._place.url, record, lease=lease)
        _log.warning("acme.account.written_back", directory_url=self._directory_url)

    async def _note_removal(self, lease: Lease) -> None:
        """Record that the stored key is removed, so that no instance that has it in memory writes it back."""
        key, now = await self._storage.get(self._place.key), self._clock.now()
        if key is not None:
            removal = {_digest(key): now + _REMOVAL_KEPT}
            await save_removals(self._storage, self._place.key, removal, now=now, lease=lease)

    async def _new_account(self, key: AccountKey) -> str:
        try:
            return await self._client.new_account(key, self._contact, self._external)
        except CaProblem as error:
            raise AccountRefused(f"no account: {error}", retry_after=error.retry_after) from error

    async def _finish_key_change(self, lease: Lease) -> None:
        """After a crash amid a change of the key: settle which of the two the CA knows."""
        stored = await self._storage.get(self._place.next_key)
        if stored is None:
            return
        key = self._parse_key(stored)
        if await self._client.find_account(key) is not None:
            await self._promote(key, lease)
        else:
            await self._storage.delete(self._place.next_key, lease=lease)

    async def _promote(self, key: AccountKey, lease: Lease) -> None:
        if await self._storage.get(self._place.key) != key.to_pem():  # else a crash came right after it was put there
            await self._note_removal(lease)
            await self._storage.put(self._place.key, key.to_pem(), lease=lease)
        await self._storage.delete(self._place.next_key, lease=lease)

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


def _digest(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()


def _account_url(stored: bytes | None) -> str | None:
    try:
        return str(json.loads(stored or b"")["url"])
    except (ValueError, KeyError, TypeError):
        return None
