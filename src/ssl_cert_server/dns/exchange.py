"""One question, one server, one answer: the only place that sends questions to DNS servers."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable

import dns.asyncbackend
import dns.asyncquery
import dns.inet
import dns.message

Server = tuple[str, int]
"""IP address and port."""

Exchange = Callable[[dns.message.Message, Server], Awaitable[dns.message.Message]]
"""Sends a question to a server and gives what it answers; raises OSError, EOFError or DNSException."""


async def exchange(question: dns.message.Message, server: Server) -> dns.message.Message:
    """Ask over UDP, and over TCP where the answer is truncated. It has no deadline of its own.

    :raises OSError: no way there, or nobody listens.
    :raises EOFError: the server closed the connection in the middle of its answer.
    :raises dns.exception.DNSException: the answer is no DNS message.
    """
    address, port = server
    # Connected, so that a port nobody listens on and a network without a route are told at once.
    backend = dns.asyncbackend.get_default_backend()
    family = dns.inet.af_for_address(address)
    udp = await backend.make_socket(family, socket.SOCK_DGRAM, 0, None, server)  # type: ignore[no-untyped-call]
    async with udp:
        try:
            return await dns.asyncquery.udp(
                question,
                address,
                port=port,
                sock=udp,
                ignore_unexpected=True,
                ignore_errors=True,
                raise_on_truncation=True,
            )
        except dns.message.Truncated:
            pass
    return await dns.asyncquery.tcp(question, address, port=port)
