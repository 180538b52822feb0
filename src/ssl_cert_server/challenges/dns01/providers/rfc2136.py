"""Dynamic updates (RFC 2136) signed with a shared key (TSIG, RFC 8945): BIND, Knot, PowerDNS, and many others."""

from __future__ import annotations

import asyncio
import base64
import binascii
import os
import socket
from collections.abc import Callable, Mapping

import dns.exception
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.tsig
import dns.update
from dns.rdtypes.ANY.TXT import TXT

from ssl_cert_server.challenges.dns01.providers.options import Option, one_of, whole_number
from ssl_cert_server.challenges.dns01.providers.updates import send_update
from ssl_cert_server.challenges.dns01.providers.zone import FindZone, zone_of
from ssl_cert_server.errors import ChallengeFailed

UPDATE_DEADLINE = 15.0
"""Seconds for one update, from looking up the server's address to its answer."""

_DEFAULT_PORT = 53
_ALGORITHMS = ("hmac-sha224", "hmac-sha256", "hmac-sha384", "hmac-sha512", "hmac-sha1", "hmac-md5")
_DEFAULT_ALGORITHM = "hmac-sha256"

_REFUSALS = {
    dns.rcode.NOTAUTH: "it doesn't hold the zone {zone}, or doesn't accept the key (NOTAUTH)",
    dns.rcode.NOTZONE: "the name is not in its zone {zone} (NOTZONE); check zone",
    dns.rcode.REFUSED: "it refused (REFUSED); allow the key {key} to update the zone {zone}",
    dns.rcode.NOTIMP: "it takes no dynamic updates (NOTIMP)",
    dns.rcode.SERVFAIL: "it failed (SERVFAIL); its log tells why",
}


class Rfc2136Provider:
    """The server that takes updates for a zone: its primary, seldom one of those that answer questions."""

    def __init__(self, options: Mapping[str, str], find_zone: FindZone, *, deadline: float = UPDATE_DEADLINE) -> None:
        """``options`` are resolved and checked; ``deadline`` is in seconds."""
        self._host, self._port = _split(options["server"])
        self._server = options["server"]
        self._key = dns.name.from_text(options["tsig_name"])
        self._algorithm = _algorithm(options.get("tsig_algorithm", _DEFAULT_ALGORITHM))
        self._keyring = {self._key: dns.tsig.Key(self._key, options["tsig_secret"], self._algorithm)}
        self._zone = options.get("zone")
        self._ttl = int(options.get("ttl", "60"))
        self._udp = options.get("protocol") == "udp"
        self._find_zone = find_zone
        self._deadline = deadline

    async def add(self, record: str, value: str) -> None:
        txt = _txt(value)
        await self._send(
            f"can't add a TXT record {record}", record, lambda update, name: update.add(name, self._ttl, txt)
        )

    async def remove(self, record: str, value: str) -> None:
        txt = _txt(value)
        await self._send(f"can't remove a TXT record {record}", record, lambda update, name: update.delete(name, txt))

    async def _send(
        self, what: str, record: str, change: Callable[[dns.update.UpdateMessage, dns.name.Name], None]
    ) -> None:
        what = f"rfc2136: {self._server} {what}"
        zone = await zone_of(record, self._zone, self._find_zone, what)
        update = dns.update.UpdateMessage(f"{zone}.", keyring=self._keyring, keyname=self._key)
        change(update, dns.name.from_text(record))
        try:
            async with asyncio.timeout(self._deadline):
                answer = await self._exchange(update)
        except TimeoutError:
            raise ChallengeFailed(f"{what}: no answer within {self._deadline:g} s") from None
        except OSError as error:
            raise ChallengeFailed(f"{what}: it can't be reached: {_reason(error)}") from error
        except EOFError as error:
            raise ChallengeFailed(f"{what}: it closed the connection without an answer") from error
        except dns.exception.DNSException as error:
            raise ChallengeFailed(f"{what}: {self._explain(error)}") from error
        if answer.rcode() != dns.rcode.NOERROR:
            raise ChallengeFailed(f"{what}: {self._refusal(answer.rcode(), zone)}")

    async def _exchange(self, update: dns.update.UpdateMessage) -> dns.message.Message:
        found = await asyncio.get_running_loop().getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        return await send_update(update, self._keyring, (str(found[0][4][0]), self._port), udp=self._udp)

    def _explain(self, error: dns.exception.DNSException) -> str:
        key = f"{self._key} with {self._algorithm}".replace(". ", " ").rstrip(".")
        match error:
            case dns.tsig.PeerBadKey():
                return f"it doesn't accept the key {key} for this zone (BADKEY); check tsig_name, and what it may"
            case dns.tsig.PeerBadSignature() | dns.tsig.PeerBadTruncation():
                return f"it has another secret for the key {key} (BADSIG); check tsig_secret"
            case dns.tsig.PeerBadTime():
                return "its clock and ours differ by minutes (BADTIME); set the clocks"
            case dns.tsig.BadTime() | dns.tsig.BadSignature() | dns.tsig.BadKey() | dns.tsig.BadAlgorithm():
                return f"its answer is not signed as it should be ({type(error).__name__})"
            case dns.exception.FormError():
                return "its answer is malformed, or not signed, so that it may be anybody's"
        return f"its answer can't be understood ({type(error).__name__})"

    def _refusal(self, rcode: dns.rcode.Rcode, zone: str) -> str:
        words = _REFUSALS.get(rcode, f"it said {dns.rcode.to_text(rcode)}")
        return words.format(zone=zone, key=str(self._key).rstrip("."))


def _reason(error: OSError) -> str:
    # asyncio has words of its own for what the system said; the errors of name look-ups have other numbers.
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror or type(error).__name__


def _txt(value: str) -> TXT:
    return TXT(dns.rdataclass.IN, dns.rdatatype.TXT, [value.encode()])


def _algorithm(name: str) -> dns.name.Name:
    return dns.tsig.HMAC_MD5 if name == "hmac-md5" else dns.name.from_text(name)


def _split(server: str) -> tuple[str, int]:
    """Take ``host``, ``host:port``, an IPv6 address, or ``[address]:port`` apart; ValueError where it is neither."""
    if server.startswith("["):
        host, _, port = server[1:].partition("]")
        port = port.removeprefix(":") if port.startswith(":") or not port else "-"
    elif server.count(":") == 1:
        host, _, port = server.partition(":")
        port = port or "-"
    else:
        host, port = server, ""
    if not host or any(char.isspace() for char in host) or (port and whole_number(1, 65_535)(port)):
        raise ValueError(server)
    return host, int(port or _DEFAULT_PORT)


def _check_server(value: str) -> str | None:
    try:
        _split(value)
    except ValueError:
        return "must be host:port, like ns1.example.com:53 or [2001:db8::1]:53"
    return None


def _check_name(value: str) -> str | None:
    try:
        dns.name.from_text(value)
    except (dns.exception.DNSException, UnicodeError):
        return "must be a key's name, as in the server's configuration"
    return None


def _check_secret(value: str) -> str | None:
    try:
        if base64.b64decode(value, validate=True):
            return None
    except (binascii.Error, ValueError):
        pass
    return "must be base64, as tsig-keygen prints it"


OPTIONS = (
    Option("server", required=True, check=_check_server),
    Option("tsig_name", required=True, check=_check_name),
    Option("tsig_secret", required=True, check=_check_secret),
    Option("tsig_algorithm", check=one_of(*_ALGORITHMS)),
    Option("zone", check=_check_name),
    Option("ttl", check=whole_number(1, 86_400)),
    Option("protocol", check=one_of("tcp", "udp")),
)
"""``protocol`` is TCP where nothing is said: a connection that is refused is known at once."""
