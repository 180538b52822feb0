"""A TLS client that is bytes in, bytes out."""

from __future__ import annotations

import ssl


class TlsClient:
    """Shakes hands for ``server_name``, or without a name, offering ``protocols``. It trusts everybody."""

    def __init__(
        self,
        server_name: str | None,
        *protocols: str,
        lowest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2,
        highest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    ) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.minimum_version, context.maximum_version = lowest, highest
        if protocols:
            context.set_alpn_protocols(list(protocols))
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name)
        self.done = False
        self.alert = ""
        self.heard_goodbye = False

    def hello(self) -> bytes:
        """The first bytes it sends."""
        return self.feed(b"")

    def feed(self, data: bytes) -> bytes:
        """Take what the server sent; give what it sends then."""
        self._incoming.write(data)
        try:
            if not self.done:
                self._tls.do_handshake()
                self.done = True
            self.heard_goodbye = self._tls.read(1) == b""
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self.alert = str(error)
        return self._outgoing.read()

    @property
    def protocol(self) -> str | None:
        return self._tls.selected_alpn_protocol()

    @property
    def version(self) -> str | None:
        return self._tls.version()

    @property
    def leaf(self) -> bytes | None:
        """The certificate it was shown, in DER."""
        return self._tls.getpeercert(binary_form=True)
