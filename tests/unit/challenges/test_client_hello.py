"""The reader of ClientHellos: any client's, in any pieces; and nothing else."""

from __future__ import annotations

import os
import ssl
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl_cert_server.challenges.client_hello import MAX_HELLO, ClientHello, ClientHelloReader
from tests.unit.challenges.tls_client import TlsClient

HELLO = TlsClient("a.example", "acme-tls/1").hello()
READ = ClientHello("a.example", (b"acme-tls/1",))
SERVER_NAME, ALPN = 0, 16


def read(data: bytes, piece: int = 100_000) -> ClientHello | None:
    reader = ClientHelloReader()
    for start in range(0, len(data), piece):
        if hello := reader.feed(data[start : start + piece]):
            return hello
    return None


def vector(size: int, data: bytes) -> bytes:
    return len(data).to_bytes(size) + data


def extension(kind: int, data: bytes) -> bytes:
    return kind.to_bytes(2) + vector(2, data)


def message(*extensions: bytes, after: bytes = b"") -> bytes:
    body = b"\x03\x03" + bytes(32) + vector(1, b"") + vector(2, b"\x13\x01") + vector(1, b"\0")
    return b"\x01" + vector(3, body + vector(2, b"".join(extensions)) + after)


def records(handshake: bytes, size: int = 16_384) -> bytes:
    pieces = [handshake[start : start + size] for start in range(0, len(handshake), size)]
    return b"".join(b"\x16\x03\x01" + vector(2, piece) for piece in pieces)


def host(name: bytes, kind: int = 0) -> bytes:
    return bytes([kind]) + vector(2, name)


@pytest.mark.parametrize("piece", [1, 2, 7, 100, 100_000])
def test_it_comes_in_any_pieces(piece: int) -> None:
    assert read(HELLO, piece) == READ


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_it_comes_in_any_records(size: int) -> None:
    fragmented = records(HELLO[5:], size)
    assert read(fragmented) == READ
    assert read(fragmented, 1) == READ


def test_it_is_whole_with_its_last_byte_and_no_sooner() -> None:
    for length in range(len(HELLO)):
        assert read(HELLO[:length]) is None
    assert read(HELLO + b"whatever follows") == READ


def test_everything_is_kept_for_tls_itself() -> None:
    reader = ClientHelloReader()
    for byte in HELLO:
        reader.feed(bytes([byte]))
    assert reader.received == HELLO


def test_a_long_hello_of_a_post_quantum_client() -> None:
    padding = extension(21, bytes(MAX_HELLO - 1000))
    long = records(message(padding, extension(ALPN, vector(2, vector(1, b"acme-tls/1")))), 1400)
    assert read(long, 1460) == ClientHello(None, (b"acme-tls/1",))


@pytest.mark.parametrize(
    ("client", "hello"),
    [
        (TlsClient(None), ClientHello(None, ())),
        (TlsClient("A.example"), ClientHello("A.example", ())),
        (TlsClient("a.example", "h2", "http/1.1"), ClientHello("a.example", (b"h2", b"http/1.1"))),
        (TlsClient("a.example", "acme-tls/1", highest=ssl.TLSVersion.TLSv1_2), READ),
        (TlsClient("a.example", "acme-tls/1", lowest=ssl.TLSVersion.TLSv1_3), READ),
    ],
)
def test_what_clients_ask_for(client: TlsClient, hello: ClientHello) -> None:
    assert read(client.hello()) == hello


@pytest.mark.parametrize(
    "data",
    [
        records(message()),
        records(b"\x01" + vector(3, b"\x03\x03" + bytes(32) + b"\0" + vector(2, b"\0\0") + b"\1\0")),
        records(message(extension(SERVER_NAME, b""), extension(ALPN, b""))),
        records(message(extension(SERVER_NAME, vector(2, host(b"a.example", kind=7))))),
    ],
    ids=["nothing asked", "no extensions", "empty ones", "a name of another kind"],
)
def test_what_asks_for_nothing(data: bytes) -> None:
    assert read(data) == ClientHello(None, ())


def test_the_host_name_is_found_among_other_kinds() -> None:
    names = host(b"\xff", kind=7) + host(b"a.example")
    assert read(records(message(extension(SERVER_NAME, vector(2, names))))) == ClientHello("a.example", ())


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"PROXY TCP4 ",
        b"\x80\x2e\x01\x00\x02",  # SSL 2
        b"\x15\x03\x01\x00\x02\x02\x70",
        b"\x17\x03\x03\x00\x01a",
        b"\x16\x02\x00\x00\x01\x01",
        b"\x16\x03\x01\x00\x00",
        records(b"\x02" + vector(3, b"")),
        records(b"\x01" + vector(3, b"")),
        records(b"\x01" + vector(3, bytes(33))),
        records(b"\x01" + vector(3, bytes(34) + b"\xff")),
        records(message(b"\0")),
        records(message(b"\0\0\0\5abcd")),
        records(message(extension(SERVER_NAME, b"\0\5\0\0\4abc"))),
        records(message(extension(SERVER_NAME, vector(2, host("bücher.example".encode()))))),
        records(message(extension(SERVER_NAME, vector(2, host(b"\xff\xfe"))))),
        records(message(extension(ALPN, b"\0\5\5abc"))),
        b"\x16\x03\x01\x00\x06" + b"\x15" + bytes(5),
    ],
)
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"^\S"):
        read(data)


@pytest.mark.parametrize("piece", [1, 4096])
@pytest.mark.parametrize("size", [1, 100, 16_384])
def test_a_hello_that_never_ends_is_refused_at_the_bound(size: int, piece: int) -> None:
    data = records(b"\x01\xff\xff\xff" + bytes(2 * MAX_HELLO), size)
    assert read(data[:MAX_HELLO], piece) is None
    with pytest.raises(ValueError, match="too long"):
        read(data[: MAX_HELLO + piece], piece)


@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for wrapped in (data, records(data), records(b"\x01" + vector(3, data)), records(message(data))):
        with suppress(ValueError):
            read(wrapped)


@given(st.integers(0, len(HELLO) - 1), st.binary(min_size=1, max_size=3))
def test_damage_anywhere_is_read_or_refused(position: int, damage: bytes) -> None:
    with suppress(ValueError):
        read(HELLO[:position] + damage + HELLO[position + len(damage) :])


def test_noise_is_read_or_refused_at_full_length() -> None:
    with pytest.raises(ValueError, match="not a TLS handshake"):
        read(b"G" + os.urandom(MAX_HELLO))
