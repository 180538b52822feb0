"""What is kept of responders' words, beside the certificates they are about."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field

import structlog

from ssl_cert_server.ocsp.codec import CertIdHash, OcspStatus
from ssl_cert_server.storage.base import Storage

_log = structlog.get_logger()

FOLDER = "_ocsp"


@dataclass(frozen=True, slots=True)
class Staple:
    """The last word on the certificate with this ``fingerprint``; times are Unix seconds.

    ``response`` is DER, empty unless ``status`` is good, which holds from ``this_update`` up to ``next_update``. The
    responder is asked again at ``refresh_at``, by a CertID of ``algorithm``, with its ``etag``. ``failures`` counts how
    often it gave no usable answer since its last one.
    """

    fingerprint: str = ""
    status: OcspStatus = OcspStatus.UNKNOWN
    response: bytes = field(default=b"", repr=False)
    this_update: float = 0.0
    next_update: float = 0.0
    refresh_at: float = 0.0
    etag: str = ""
    algorithm: CertIdHash = CertIdHash.SHA256
    failures: int = 0

    def holds(self, now: float) -> bool:
        """Tell whether it may be stapled."""
        return bool(self.response) and self.this_update <= now < self.next_update


async def load_staple(storage: Storage, cert_key: str) -> Staple:
    """Read what is kept for the certificate under ``cert_key``; it may be about the one that was there before.

    :raises StorageError: it can't be read.
    """
    stored = await storage.get(_key(cert_key))
    return Staple() if stored is None else _parse(stored, cert_key)


async def save_staple(storage: Storage, cert_key: str, staple: Staple) -> None:
    """Write it.

    :raises StorageError: it can't be written.
    """
    document = {
        "fingerprint": staple.fingerprint,
        "status": staple.status,
        "response": base64.b64encode(staple.response).decode("ascii"),
        "this_update": staple.this_update,
        "next_update": staple.next_update,
        "refresh_at": staple.refresh_at,
        "etag": staple.etag,
        "algorithm": staple.algorithm,
        "failures": staple.failures,
    }
    await storage.put(_key(cert_key), json.dumps(document).encode())


async def forget_staple(storage: Storage, cert_key: str) -> None:
    """Keep nothing any more.

    :raises StorageError: it can't be removed.
    """
    await storage.delete(_key(cert_key))


def _parse(stored: bytes, cert_key: str) -> Staple:
    try:
        document = json.loads(stored)
        return Staple(
            fingerprint=str(document["fingerprint"]),
            status=OcspStatus(document["status"]),
            response=base64.b64decode(document["response"], validate=True),
            this_update=float(document["this_update"]),
            next_update=float(document["next_update"]),
            refresh_at=float(document["refresh_at"]),
            etag=str(document["etag"]),
            algorithm=CertIdHash(document["algorithm"]),
            failures=int(document["failures"]),
        )
    except (ValueError, TypeError, KeyError):
        _log.warning("ocsp.record_unreadable", cert_key=cert_key, remedy="it is ignored and written anew")
        return Staple()


def _key(cert_key: str) -> str:
    return f"{FOLDER}/{cert_key}"
