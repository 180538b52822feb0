"""The TLS side of a CA's visit for tls-alpn-01, from bytes to bytes."""

from __future__ import annotations

import os
import ssl

from ssl_cert_server.model import Certificate

ACME_TLS = "acme-tls/1"
"""The protocol that such a visit is told by (RFC 8737 section 6.2)."""


class ChallengeHandshake:
    """The server's side of one handshake, in which the challenge certificate is shown. No data follows it."""

    def __init__(self, certificate: Certificate) -> None:
        """The private key goes to OpenSSL through a file that is in memory only."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.num_tickets = 0
        context.set_alpn_protocols([ACME_TLS])
        descriptor = os.memfd_create("challenge", os.MFD_CLOEXEC)
        with os.fdopen(descriptor, "wb") as file:
            file.write(certificate.stored)
            file.flush()
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.over = False

    def feed(self, data: bytes) -> bytes:
        """Take what the client sent; give what it is to be sent. That is the last of it where ``over`` is set."""
        self._incoming.write(data)
        try:
            self._tls.do_handshake()
            self.over = True
            self._tls.unwrap()  # says goodbye; that it waits for the client's goodbye is an error, too
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            self.over = True  # what is to be sent ends in an alert
        return self._outgoing.read()
