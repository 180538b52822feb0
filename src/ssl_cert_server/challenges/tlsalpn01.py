"""tls-alpn-01 (RFC 8737): challenge certificates, kept where every instance finds them."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, field

from ssl_cert_server.challenges import left_over
from ssl_cert_server.challenges.hold import Hold, hold
from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import ChallengeFailed, InvalidCertificate, InvalidName, LeaseLost
from ssl_cert_server.model import Certificate
from ssl_cert_server.pki.alpn import make_challenge_certificate
from ssl_cert_server.pki.names import is_ip, normalize_identifier, reverse_name
from ssl_cert_server.pki.x509 import parse_certificate
from ssl_cert_server.storage.base import Storage

TURN_DEADLINE = 60.0
"""Seconds that a challenge waits for another one of the same name to be over."""

_FOLDER = "_challenges/tls-alpn-01"


@dataclass(slots=True)
class _Turn:
    """A challenge that has its name for itself. ``certificate`` is there once it is kept."""

    token: str = field(repr=False)
    hold: Hold
    certificate: Certificate | None = None


class TlsAlpn01Responder:
    """Presents challenges for the ACME engine, and gives the certificates for the CA's visits.

    A CA says in SNI which name it validates, and not for which of its orders. So one challenge of a name is pending
    at a time, over all instances; the next one waits.
    """

    type = "tls-alpn-01"

    def __init__(self, storage: Storage, clock: Clock) -> None:
        self._storage = storage
        self._clock = clock
        self._turns: dict[str, _Turn] = {}
        self._never_began: Counter[tuple[str, str]] = Counter()

    async def present(self, name: str, token: str, key_authorization: str) -> None:
        """Make the challenge answerable by every instance.

        :raises ChallengeFailed: another challenge of the name is pending and doesn't end.
        :raises StorageError: it can't be kept.
        """
        server_name = _server_name(name)
        try:
            held = await self._wait_for(server_name)
        except BaseException:
            self._never_began[server_name, token] += 1
            raise
        turn = self._turns[server_name] = _Turn(token, held)
        now = self._clock.now()
        certificate = make_challenge_certificate(name, key_authorization, now)
        record = {"name": name, "certificate": certificate.stored.decode(), "created": now}
        await self._storage.put(_key(server_name), json.dumps(record).encode(), lease=held.lease)
        turn.certificate = certificate

    async def cleanup(self, name: str, token: str) -> None:
        """Stop answering a challenge.

        :raises StorageError: it can't be removed; it is harmless, and removed at a later start.
        """
        server_name = _server_name(name)
        if self._never_began[server_name, token]:
            # Orders may share an authorization, and so a token: what is answered now is another one's.
            self._never_began -= Counter({(server_name, token): 1})
            return
        turn = self._turns.get(server_name)
        if turn is None or turn.token != token:
            return
        del self._turns[server_name]
        try:
            await self._storage.delete(_key(server_name), lease=turn.hold.lease)
        except LeaseLost:
            pass  # another instance took over, and what is kept is its own
        finally:
            await turn.hold.let_go()

    async def answer(self, server_name: str) -> Certificate | None:
        """Give the certificate for a challenge that is pending at any instance, or None.

        ``server_name`` is what the CA sends in SNI: for an IP address its name under ``in-addr.arpa`` or ``ip6.arpa``
        (RFC 8738 section 6). The address itself does, too.

        :raises StorageError: what the other instances presented can't be read now.
        """
        try:
            server_name = _server_name(normalize_identifier(server_name))
        except InvalidName:
            return None
        turn = self._turns.get(server_name)
        if turn is not None and turn.certificate is not None:
            return turn.certificate
        return _parse(await self._storage.get(_key(server_name)))

    async def remove_left_over(self) -> None:
        """Remove what instances that were killed left behind a week ago.

        :raises StorageError: storage can't be read or written now.
        """
        await left_over.remove_left_over(self._storage, _FOLDER, self._clock)

    async def _wait_for(self, server_name: str) -> Hold:
        try:
            async with asyncio.timeout(TURN_DEADLINE):
                return await hold(self._storage, f"tls-alpn-01/{server_name}", self._clock)
        except TimeoutError:
            raise ChallengeFailed(
                f"{server_name}: another tls-alpn-01 challenge of this name did not end within {TURN_DEADLINE:.0f} s, "
                "and only one can be answered at a time; it is tried again later"
            ) from None


def _server_name(name: str) -> str:
    return reverse_name(name) if is_ip(name) else name


def _key(server_name: str) -> str:
    return f"{_FOLDER}/{server_name}"


def _parse(stored: bytes | None) -> Certificate | None:
    try:
        return parse_certificate(json.loads(stored or b"")["certificate"].encode())
    except (ValueError, TypeError, KeyError, AttributeError, InvalidCertificate):
        return None
