"""What is kept beside a stored ACME certificate: who issued it, how, and when its CA wants it renewed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import structlog

from ssl_cert_server.storage.base import Lease, Storage

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class IssuedRecord:
    """What is known of the certificate with this ``fingerprint``; empty text and 0 stand for unknown.

    ``directory_url`` is the CA's, ``challenge`` the type that proved control. The rest is ARI (RFC 9773), Unix
    seconds: the window the CA suggested, the time in it that was drawn, and when the CA is asked again.
    """

    fingerprint: str = ""
    directory_url: str = ""
    challenge: str = ""
    window_start: float = 0.0
    window_end: float = 0.0
    renew_at: float = 0.0
    ask_at: float = 0.0

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
        times = {field: float(document[field]) for field in ("window_start", "window_end", "renew_at", "ask_at")}
        return IssuedRecord(**texts, **times)  # type: ignore[arg-type]
    except (ValueError, TypeError, KeyError):
        _log.warning("record.unreadable", cert_key=cert_key, remedy="it is ignored and written anew")
        return IssuedRecord()


def _key(cert_key: str) -> str:
    return f"_issued/{cert_key}"
