"""TLS handshakes as visitors make them."""

from __future__ import annotations

import socket
import ssl


def handshake(port: int, name: str, root_pem: bytes, *, timeout: float = 60) -> bytes:
    """Shake hands as a browser does, trusting one root only; give the leaf in DER.

    :raises ssl.SSLCertVerificationError: what the server showed is not for this name, or not from that root.
    """
    return _leaf(ssl.create_default_context(cadata=root_pem.decode("ascii")), port, name, timeout)


def shown_certificate(port: int, name: str, *, timeout: float = 60) -> bytes:
    """Shake hands without a question, and give whatever leaf is shown in DER."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return _leaf(context, port, name, timeout)


def _leaf(context: ssl.SSLContext, port: int, name: str, timeout: float) -> bytes:
    with (
        socket.create_connection(("127.0.0.1", port), timeout=timeout) as plain,
        context.wrap_socket(plain, server_hostname=name) as tls,
    ):
        leaf = tls.getpeercert(binary_form=True)
    assert leaf is not None
    return leaf
