"""Reading a TLS ClientHello (RFC 8446 section 4.1.2) for what it asks for, before TLS begins.

The standard library tells the server name to a callback, in which nothing can be awaited, and of the protocols only the
one that was agreed on. A server name that isn't ASCII makes it print a traceback, for every stranger who sends one.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_HELLO = 16 * 1024
"""Bytes that may come until the hello is whole; those of CAs have a few hundred."""

_HANDSHAKE_RECORD = 22
_TLS_MAJOR_VERSION = 3
_CLIENT_HELLO = 1
_SERVER_NAME = 0
_ALPN = 16
_HOST_NAME = 0


@dataclass(frozen=True, slots=True)
class ClientHello:
    """The server name as it was sent, and the protocols (ALPN, RFC 7301) in the order of the client's liking."""

    server_name: str | None
    protocols: tuple[bytes, ...]


class ClientHelloReader:
    """Gathers the hello from however many pieces and records it comes in; ``received`` is everything so far."""

    def __init__(self) -> None:
        self.received = bytearray()
        self._records_end = 0
        self._message = bytearray()

    def feed(self, data: bytes) -> ClientHello | None:
        """Take the next bytes; give the hello once it is whole.

        :raises ValueError: these are the bytes of something else, or of too long a hello.
        """
        self.received += data
        while self._take_record():
            if (body := self._body()) is not None:
                return _parse(body)
        if len(self.received) > MAX_HELLO:
            raise ValueError("too long")
        return None

    def _take_record(self) -> bool:
        header = self.received[self._records_end : self._records_end + 5]
        if len(header) < 5:
            return False
        if header[0] != _HANDSHAKE_RECORD or header[1] != _TLS_MAJOR_VERSION:
            raise ValueError("not a TLS handshake")
        begin = self._records_end + 5
        end = begin + int.from_bytes(header[3:])
        if begin == end:
            raise ValueError("an empty record")
        if len(self.received) < end:
            return False
        self._message += self.received[begin:end]
        self._records_end = end
        return True

    def _body(self) -> bytes | None:
        if self._message[0] != _CLIENT_HELLO:
            raise ValueError("not a ClientHello")
        end = 4 + int.from_bytes(self._message[1:4])
        if len(self._message) < 4 or len(self._message) < end:
            return None
        return bytes(self._message[4:end])


class _Fields:
    """Reads numbers and vectors one after the other (RFC 8446 section 3)."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def more(self) -> bool:
        return self._at < len(self._data)

    def take(self, count: int) -> bytes:
        begin, self._at = self._at, self._at + count
        if self._at > len(self._data):
            raise ValueError("cut off")
        return self._data[begin : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def vector(self, size: int) -> bytes:
        """What follows its own length, which has ``size`` bytes."""
        return self.take(self.number(size))


def _parse(body: bytes) -> ClientHello:
    fields = _Fields(body)
    fields.take(2 + 32)  # the version and the random
    for size in (1, 2, 1):  # the session, the cipher suites, the compression methods
        fields.vector(size)
    extensions = dict(_extensions(_Fields(fields.vector(2) if fields.more else b"")))
    return ClientHello(_host_name(extensions.get(_SERVER_NAME)), _protocols(extensions.get(_ALPN)))


def _extensions(fields: _Fields) -> list[tuple[int, bytes]]:
    found = []
    while fields.more:
        found.append((fields.number(2), fields.vector(2)))
    return found


def _host_name(extension: bytes | None) -> str | None:
    """RFC 6066 section 3."""
    names = _Fields(_Fields(extension).vector(2) if extension else b"")
    while names.more:
        kind, name = names.number(1), names.vector(2)
        if kind == _HOST_NAME:
            return name.decode("ascii")  # its error is a ValueError
    return None


def _protocols(extension: bytes | None) -> tuple[bytes, ...]:
    """RFC 7301 section 3.1."""
    names = _Fields(_Fields(extension).vector(2) if extension else b"")
    found = []
    while names.more:
        found.append(names.vector(1))
    return tuple(found)
