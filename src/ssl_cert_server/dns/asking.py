"""Asking several servers, several times, within a deadline; and words for what went wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import dns.exception
import dns.message
import dns.rcode
import dns.rdatatype

from ssl_cert_server.clock import Clock
from ssl_cert_server.dns.exchange import Exchange, Server
from ssl_cert_server.errors import LookupFailed

_TRY_SECONDS = 1.5
_ROUNDS = 3
_PAUSE = 0.2
_MEANINGS = {
    dns.rcode.SERVFAIL: "SERVFAIL (the zone's name servers are down, or its DNSSEC is broken)",
    dns.rcode.REFUSED: "REFUSED (it doesn't answer us, or not for this name)",
}


async def ask(
    question: dns.message.QueryMessage, servers: Sequence[Server], exchange: Exchange, clock: Clock, deadline: float
) -> dns.message.QueryMessage:
    """Give the first usable answer: one with data, or one that says that there is none.

    Each server is asked up to three times, 1.5 s each, within ``deadline`` seconds in all.

    :raises LookupFailed: none answered so; the message says what each of them did.
    """
    failures: dict[Server, str] = {}
    try:
        async with asyncio.timeout(deadline):
            for number in range(_ROUNDS):
                if number:
                    await clock.sleep(_PAUSE * 2**number * (0.5 + clock.random()))
                for server in servers:
                    answer = await _try(question, server, exchange)
                    if isinstance(answer, dns.message.QueryMessage):
                        return answer
                    failures[server] = answer
    except TimeoutError:
        for server in servers:
            failures.setdefault(server, "no answer")
    raise LookupFailed(_words(question, failures))


async def _try(question: dns.message.Message, server: Server, exchange: Exchange) -> dns.message.QueryMessage | str:
    """Give the answer, or in words why there is none."""
    try:
        async with asyncio.timeout(_TRY_SECONDS):
            answer = await exchange(question, server)
    except TimeoutError:
        return "no answer"
    except OSError as error:
        return f"no answer ({error.strerror or error})"
    except (EOFError, dns.exception.DNSException) as error:
        return f"an answer that is no DNS message ({type(error).__name__})"
    code = answer.rcode()
    if code not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        return _MEANINGS.get(code, dns.rcode.to_text(code))
    if not isinstance(answer, dns.message.QueryMessage):
        return "an answer to something else"
    return answer


def _words(question: dns.message.QueryMessage, failures: dict[Server, str]) -> str:
    asked = question.question[0]
    name = asked.name.to_text(omit_final_dot=True)
    said = "; ".join(f"{address} port {port}: {failure}" for (address, port), failure in failures.items())
    return f"DNS gave no usable answer for {name} {dns.rdatatype.to_text(asked.rdtype)}: {said}"
