"""The finished answer to ``GET /cert/{name}``: its bytes, and how long they hold."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from ssl_cert_server.clock import Clock
from ssl_cert_server.model import Certificate, CertificateType, KeyFamily
from ssl_cert_server.service.ttl import ttl

_REBUILD_EVERY = 60.0
# With little time left the ttl counts down; bytes older than this would promise too much.
_REBUILD_NEAR_EXPIRY = 1.0
_NEAR_EXPIRY = 3600.0 + _REBUILD_EVERY


@dataclass(slots=True)
class Answer:
    """A certificate as it goes over the wire; ``cert_key`` is where it is stored, empty where it isn't.

    ``families`` are the kinds of key that the name has certificates of, where that is more than one.
    ``body`` is the JSON object of the protocol, ``head`` the response's header lines after the status and date lines
    up to the blank one, ``ttl`` in seconds. All three hold until ``bytes_until``; the answer itself, until
    ``fresh_until`` (both Unix seconds).
    """

    certificate: Certificate
    type: CertificateType
    fresh_until: float
    etag: str
    cert_key: str = ""
    families: tuple[KeyFamily, ...] = ()
    ttl: int = 0
    body: bytes = field(default=b"", repr=False)
    head: bytes = b""
    bytes_until: float = 0.0

    def holds(self, clock: Clock) -> bool:
        """Tell whether the answer may be given now, its bytes renewed where they have aged."""
        now = clock.now()
        if now < self.bytes_until:
            return True
        if now >= self.fresh_until:
            return False
        self._build(now, clock.random())
        return True

    def _build(self, now: float, jitter: float) -> None:
        certificate = self.certificate
        self.ttl = ttl(certificate.not_after, now, jitter)
        self.body = json.dumps(
            {
                "type": int(self.type),
                "cert": certificate.chain_pem.decode("ascii"),
                "pkey": certificate.key_pem.decode("ascii"),
                "fingerprint": certificate.fingerprint,
                "expire_at": certificate.not_after,
                "ttl": self.ttl,
            },
            separators=(",", ":"),
        ).encode("ascii")
        lines = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
        self.head = f"content-type: application/json\r\ncontent-length: {len(self.body)}\r\n{lines}\r\n".encode("ascii")
        left = certificate.not_after - now
        rebuild = _REBUILD_EVERY if left > _NEAR_EXPIRY else _REBUILD_NEAR_EXPIRY
        self.bytes_until = min(now + rebuild, self.fresh_until)

    @property
    def headers(self) -> dict[str, str]:
        """What is said of it beside the body, where nothing but that it has not changed is said, too."""
        headers = {"etag": self.etag, "cache-control": "no-store"}
        if self.families:
            headers["x-keytypes"] = ", ".join(self.families)
        return headers

    @property
    def size(self) -> int:
        """Bytes of memory that keeping this answer costs, roughly."""
        return 2 * len(self.body) + len(self.head) + 1000


def make_answer(
    certificate: Certificate,
    type: CertificateType,
    fresh_until: float,
    cert_key: str = "",
    families: tuple[KeyFamily, ...] = (),
) -> Answer:
    """Make the answer that hands out ``certificate``; its bytes are built when it is first given."""
    return Answer(certificate, type, fresh_until, f'"{certificate.fingerprint}"', cert_key, families)
