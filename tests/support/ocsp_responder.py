"""A CA's responder over real HTTP: ``openssl ocsp`` answers, unless a test has it misbehave."""

from __future__ import annotations

import base64
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from tests.support.http_thread import Handler, HttpThread

_ISSUER = "/issuer"

Misbehaviour = Callable[[bytes], tuple[int, bytes]]
"""From the right answer to a status and the body that is sent instead."""


class OcspResponder:
    """Knows every certificate as good, but those in ``revoked`` and ``unknown`` (serial numbers).

    ``asked`` are the serial numbers of all questions. What it signs holds for ``minutes``. ``misbehave`` is what
    becomes of its answers. Until :meth:`serve` has told whom it speaks for, it refuses everybody. A context manager.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.asked: list[int] = []
        self.revoked: set[int] = set()
        self.unknown: set[int] = set()
        self.minutes = 60
        self.misbehave: Misbehaviour | None = None
        self._folder = folder
        self._guard = threading.Lock()
        self.issuer = b""
        """The issuer's certificate in DER."""
        self._signer: tuple[Path, Path, Path] | None = None
        self._http = HttpThread(_handler(self))
        self.start = self._http.start
        self.stop = self._http.stop

    @property
    def url(self) -> str:
        return self._http.url

    @property
    def issuer_url(self) -> str:
        """Where the issuer's certificate can be had."""
        return self.url + _ISSUER

    def serve(self, issuer_pem: bytes, signer_pem: bytes, signer_key_pem: bytes) -> None:
        """Speak for an issuer; the signer may be the issuer itself, or whom it delegated that to."""
        self.issuer = x509.load_pem_x509_certificate(issuer_pem).public_bytes(Encoding.DER)
        files = self._folder / "issuer.pem", self._folder / "signer.pem", self._folder / "signer.key"
        for file, pem in zip(files, (issuer_pem, signer_pem, signer_key_pem), strict=True):
            file.write_bytes(pem)
        self._signer = files

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def answer(self, request: bytes) -> tuple[int, bytes]:
        """Give the status and the body for a question in DER."""
        serial = ocsp.load_der_ocsp_request(request).serial_number
        self.asked.append(serial)
        if self._signer is None:
            return 503, b""
        with self._guard:
            body = self._sign(request, serial, *self._signer)
        return self.misbehave(body) if self.misbehave else (200, body)

    def _sign(self, request: bytes, serial: int, issuer: Path, signer: Path, key: Path) -> bytes:
        index, asked, said = self._folder / "index.txt", self._folder / "request.der", self._folder / "response.der"
        index.write_text("" if serial in self.unknown else self._entry(serial))
        asked.write_bytes(request)
        said.unlink(missing_ok=True)
        command: list[str | Path] = ["openssl", "ocsp", "-index", index, "-CA", issuer, "-rsigner", signer]
        command += ["-rkey", key, "-reqin", asked, "-respout", said, "-nmin", str(self.minutes)]
        subprocess.run(command, check=True, capture_output=True, timeout=30)
        return said.read_bytes()

    def _entry(self, serial: int) -> str:
        digits = f"{serial:X}"
        digits = digits.zfill(len(digits) + len(digits) % 2)
        then = time.strftime("%y%m%d%H%M%SZ", time.gmtime(time.time() + 86_400))
        now = time.strftime("%y%m%d%H%M%SZ", time.gmtime(time.time() - 60))
        if serial in self.revoked:
            return f"R\t{then}\t{now},keyCompromise\t{digits}\tunknown\t/CN=x\n"
        return f"V\t{then}\t\t{digits}\tunknown\t/CN=x\n"


def _handler(responder: OcspResponder) -> type[Handler]:
    class Asked(Handler):
        def get(self) -> None:
            if self.path == _ISSUER:
                self._say(200, responder.issuer)
            else:
                self._say(*responder.answer(base64.b64decode(urllib.parse.unquote(self.path[1:]))))

        def post(self, body: bytes) -> None:
            self._say(*responder.answer(body))

        def _say(self, status: int, body: bytes) -> None:
            with suppress(OSError):  # who asked has had enough
                self.reply(status, body, "application/ocsp-response")

    return Asked
