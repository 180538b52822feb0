"""A CA of our own, for names that no public CA would issue for: its root is kept, its leaves are not.

A leaf takes a millisecond to make and strangers can name endlessly many, so leaves live in the bounded memory cache
alone; after a restart a name gets a new one from the same root.
"""

from __future__ import annotations

import secrets

import structlog

from ssl_cert_server.clock import Clock
from ssl_cert_server.model import Certificate, CertificateType, Subject
from ssl_cert_server.pki.signing import Validity, check_root, make_root, sign_leaf
from ssl_cert_server.pki.x509 import check_usable, parse_certificate
from ssl_cert_server.storage.base import Storage
from ssl_cert_server.storage.leasing import leased

_log = structlog.get_logger()

ROOT_KEY = "_local_ca/root"
"""Storage key of the root's private key and certificate."""

_ROOT_DAYS = 3650
_LEAF_DAYS = 90


class LocalCa:
    """Issues at once, from a root created once per storage."""

    type = CertificateType.SELF_SIGNED

    def __init__(self, storage: Storage, clock: Clock) -> None:
        self._storage = storage
        self._clock = clock
        self._root: Certificate | None = None

    async def root(self) -> Certificate:
        """Give the root, created at the first call over all instances.

        :raises InvalidCertificate: what is stored is no root, or expired.
        """
        if self._root is None:
            self._root = await self._stored_root() or await self._create_root()
        check_usable(self._root, self._clock.now())
        return self._root

    @property
    def root_in_memory(self) -> bytes | None:
        """The stored form of the root, where this instance has used it."""
        return self._root.stored if self._root is not None else None

    async def obtain(self, name: str, subject: Subject) -> Certificate:  # noqa: ARG002 - leaves aren't stored
        root = await self.root()
        validity = Validity.days_from(self._clock.now(), _LEAF_DAYS)
        return sign_leaf(root, name, Validity(validity.not_before, min(validity.not_after, root.not_after)))

    def fresh_until(self, certificate: Certificate) -> float:
        return certificate.not_after - certificate.lifetime / 3

    async def _create_root(self) -> Certificate:
        async with leased(self._storage, "local_ca/root", self._clock) as lease:
            root = await self._stored_root()
            if root is None:
                # A number in the name keeps the roots of several machines apart in a trust store.
                common_name = f"ssl-cert-server local CA {secrets.token_hex(4)}"
                root = make_root(common_name, Validity.days_from(self._clock.now(), _ROOT_DAYS))
                await self._storage.put(ROOT_KEY, root.stored, lease=lease)
                _log.info("local_ca.root_created", common_name=common_name, fingerprint=root.fingerprint)
        return root

    async def _stored_root(self) -> Certificate | None:
        stored = await self._storage.get(ROOT_KEY)
        if stored is None:
            return None
        return parse_root(stored)


def parse_root(stored: bytes) -> Certificate:
    """Parse a stored root; its validity period is not checked.

    :raises InvalidCertificate: leaves can't be signed with it.
    """
    root = parse_certificate(stored)
    check_root(root)
    return root
