"""One signed DNS update, and its answer."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from typing import Any

import dns.asyncbackend
import dns.asyncquery
import dns.exception
import dns.inet
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.tsig
import dns.update

RESEND_AFTER = 3.0
"""Seconds without an answer over UDP."""

# Answers are read first and verified then: what refuses may be unsigned (RFC 8945 section 5.3.2), and says why.
_UNCHECKED: Any = False


async def send_update(
    update: dns.update.UpdateMessage,
    keyring: Mapping[dns.name.Name, dns.tsig.Key],
    server: tuple[str, int],
    *,
    udp: bool,
) -> dns.message.Message:
    """Give the answer: signed, or an unsigned refusal. It has no deadline of its own.

    :raises OSError: no way there, or nobody listens.
    :raises EOFError: the server closed the connection in the middle of its answer.
    :raises dns.exception.DNSException: the answer is malformed, or not signed as it should be.
    """
    answer = await (_by_udp if udp else _by_tcp)(update, server)
    if not update.is_response(answer):
        raise dns.query.BadResponse
    if answer.rcode() != dns.rcode.NOERROR and not answer.had_tsig:
        return answer
    return dns.message.from_wire(answer.wire or b"", keyring=dict(keyring), request_mac=update.mac)


async def _by_tcp(update: dns.update.UpdateMessage, server: tuple[str, int]) -> dns.message.Message:
    async with await _connect(server, socket.SOCK_STREAM) as tcp:
        await dns.asyncquery.send_tcp(tcp, update)
        answer, _ = await dns.asyncquery.receive_tcp(tcp, keyring=_UNCHECKED)
    return answer


async def _by_udp(update: dns.update.UpdateMessage, server: tuple[str, int]) -> dns.message.Message:
    wire = update.to_wire()
    async with await _connect(server, socket.SOCK_DGRAM) as udp:
        while True:  # an update that arrives twice changes nothing more
            await dns.asyncquery.send_udp(udp, wire, server)
            try:
                async with asyncio.timeout(RESEND_AFTER):
                    answer: dns.message.Message = (await dns.asyncquery.receive_udp(udp, keyring=_UNCHECKED))[0]
            except TimeoutError:
                continue
            return answer


async def _connect(server: tuple[str, int], kind: int) -> Any:  # noqa: ANN401 - two classes without a common one
    backend = dns.asyncbackend.get_default_backend()
    make: Any = backend.make_socket
    return await make(dns.inet.af_for_address(server[0]), kind, 0, None, server)
