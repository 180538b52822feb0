"""What is kept beside a stored ACME certificate: who issued it, how, and when its CA wants it renewed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import structlog

from ssl_cert_server.model import Certificate
from ssl_cert_server.storage.base import Lease, Storage

_log = structlog.get_logger()

FOLDER = "_issued"
_LONGEST_REST = 86_400.0
_SHORTEST_REST = 3_600.0
_FACTS = ("revoked", "follows_young")
_TIMES = ("window_start", "window_end", "renew_at", "ask_at", "rests_until", "heeded_from")


@dataclass(frozen=True, slots=True)
class IssuedRecord:
    """What is known of the certificate with this ``fingerprint``; empty text and 0 stand for unknown.

    ``directory_url`` is the CA's, ``challenge`` the type that proved control. The rest is ARI (RFC 9773), Unix
    seconds: the window the CA suggested, the time in it that was drawn, and when the CA is asked again.

    It is not renewed before ``rests_until``, nor for the CA's advice before ``heeded_from``. One that is ``revoked`` is
    replaced at once, unless it ``follows_young``: took the place of one that should have rested itself. ``replaces`` is
    the fingerprint of its predecessor.
    """

    fingerprint: str = ""
    directory_url: str = ""
    challenge: str = ""
    window_start: float = 0.0
    window_end: float = 0.0
    renew_at: float = 0.0
    ask_at: float = 0.0
    rests_until: float = 0.0
    heeded_from: float = 0.0
    revoked: bool = False
    follows_young: bool = False
    replaces: str = ""

    @classmethod
    def of_new(
        cls, certificate: Certificate, directory_url: str, challenge: str, now: float, before: IssuedRecord | None
    ) -> IssuedRecord:
        """Give the record of a certificate that was issued just now, in the place of the one with ``before``.

        It rests, however due it looks: where a clock is wrong, every new certificate may look so. And a CA may revoke
        what it issued an hour ago: its advice is heeded soon, but not time after time, for its windows may always lie
        in the past.
        """
        rest = min(certificate.lifetime / 4, _LONGEST_REST)
        early = before is not None and now < before.rests_until
        return cls(
            certificate.fingerprint,
            directory_url,
            challenge,
            rests_until=now + rest,
            heeded_from=now + (rest if early else min(rest, _SHORTEST_REST)),
            follows_young=early,
            replaces=before.fingerprint if before is not None else "",
        )

    def window_holds(self, now: float) -> bool:
        """Tell whether the suggested window is the current one."""
        return self.window_start <= now < self.window_end


async def load_record(storage: Storage, cert_key: str, fingerprint: str) -> IssuedRecord:
    """Read what is kept of the certificate with ``fingerprint``; a record of another, or a broken one, says nothing.

    :raises StorageError: it can't be read.
    """
    stored = await storage.get(_key(cert_key))
    record = IssuedRecord() if stored is None else _parse(stored, cert_key)
    return record if record.fingerprint == fingerprint else IssuedRecord(fingerprint)


async def save_record(storage: Storage, cert_key: str, record: IssuedRecord, lease: Lease | None = None) -> None:
    """Write what is kept of a certificate.

    :raises StorageError: it can't be written.
    """
    await storage.put(_key(cert_key), json.dumps(asdict(record)).encode(), lease=lease)


def _parse(stored: bytes, cert_key: str) -> IssuedRecord:
    try:
        document = json.loads(stored)
        texts = {field: str(document[field]) for field in ("fingerprint", "directory_url", "challenge")}
        times = {field: float(document.get(field, 0.0)) for field in _TIMES}
        facts = {field: bool(document.get(field)) for field in _FACTS}
        replaces = str(document.get("replaces", ""))
        return IssuedRecord(**texts, **times, **facts, replaces=replaces)  # type: ignore[arg-type]
    except (ValueError, TypeError, KeyError):
        _log.warning("record.unreadable", cert_key=cert_key, remedy="it is ignored and written anew")
        return IssuedRecord()


def _key(cert_key: str) -> str:
    return f"{FOLDER}/{cert_key}"
