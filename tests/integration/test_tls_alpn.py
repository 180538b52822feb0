"""tls-alpn-01 against a CA that isn't ours: behind nginx that routes by ALPN, and behind a TLS server in Python."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import threading
import urllib.request
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import uvloop
from cryptography.hazmat.primitives import serialization

from ssl_cert_server.acme.client import AcmeClient
from ssl_cert_server.acme.jose import AccountKey
from ssl_cert_server.acme.order import obtain
from ssl_cert_server.acme.session import AcmeSession
from ssl_cert_server.acme.transport import open_http_client
from ssl_cert_server.challenges.tlsalpn01 import TlsAlpn01Responder
from ssl_cert_server.challenges.tlsalpn01_listener import TlsAlpn01Listener
from ssl_cert_server.clock import SystemClock
from ssl_cert_server.errors import ValidationFailed
from ssl_cert_server.model import Certificate, KeyType
from ssl_cert_server.pki.csr import make_csr
from ssl_cert_server.pki.keys import generate_key
from ssl_cert_server.pki.x509 import assemble
from ssl_cert_server.service.cache import AnswerCache
from ssl_cert_server.service.certificates import Certificates
from ssl_cert_server.service.policy import Policy, PolicyRules
from ssl_cert_server.storage.memory import MemoryStorage
from tests.integration.conftest import StartPebble
from tests.support.application import Application
from tests.support.nginx import MODULE_FOLDERS, ROOT, Nginx, render
from tests.support.pebble import Pebble
from tests.support.ports import free_port
from tests.support.server import CertServer, acme_config
from tests.support.verify import verified_leaf

TEMPLATE = ROOT / "examples" / "nginx" / "nginx-stream.conf.template"
ACME = "acme-tls/1"
NAMES = ["a.example.com", "b.example.com", "127.0.0.1"]
VISITOR = "127.0.0.77"
SECONDS = 60
CLOCK = SystemClock()

LoopFactory = Callable[[], asyncio.AbstractEventLoop]
loops = pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])


def run(new_loop: LoopFactory, main: Coroutine[Any, Any, None]) -> None:
    async def within_limit() -> None:
        async with asyncio.timeout(SECONDS):
            await main

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(within_limit())


async def order(pebble: Pebble, responder: TlsAlpn01Responder, *names: str) -> Certificate:
    key = generate_key(KeyType.ECDSA_P256)
    async with open_http_client(pebble.ca_bundle) as http:
        client, account = AcmeClient(pebble.directory_url, http, CLOCK), AccountKey.generate()
        session = AcmeSession(client, account, await client.new_account(account))
        chain = await obtain(session, names, make_csr(key, names), lambda _: [responder], CLOCK)
    return assemble(key, chain)


# --- nginx, and behind it the server's own listener


def stream_module() -> str:
    """Debian keeps it in a file; OpenResty has it inside."""
    found = [folder / "ngx_stream_module.so" for folder in MODULE_FOLDERS if (folder / "ngx_stream_module.so").exists()]
    return f"load_module {found[0]};" if found else ""


@pytest.fixture
def listen() -> str:
    """Where nginx sends CAs."""
    return f"127.0.0.1:{free_port()}"


@pytest.fixture
def listening(listen: str) -> Iterator[socket.socket]:
    """For tests that have the listener in their own process."""
    with socket.create_server(("127.0.0.1", int(listen.rpartition(":")[2]))) as listening:
        yield listening


@pytest.fixture
def server_port() -> int:
    """Where nginx asks for certificates; where nobody listens, visitors get the fallback."""
    return free_port()


@pytest.fixture
def nginx(tmp_path: Path, listen: str, server_port: int) -> Iterator[Nginx]:
    values = {
        "STREAM_MODULE": stream_module(),
        "TLS_ALPN01": listen,
        "CHALLENGES_PORT": str(free_port()),
        "VISITORS_PORT": str(free_port()),
    }
    (tmp_path / "nginx").mkdir()
    template = render(TEMPLATE.read_text(), values)
    with Nginx(tmp_path / "nginx", backend=f"127.0.0.1:{server_port}", template=template) as nginx:
        yield nginx


@pytest.fixture
def pebble(start_pebble: StartPebble, nginx: Nginx) -> Pebble:
    """Validates where nginx listens."""
    return start_pebble(http_port=free_port(), tls_port=nginx.https_port)


@contextlib.asynccontextmanager
async def serving(listening: socket.socket) -> AsyncIterator[TlsAlpn01Responder]:
    """The responder of one instance, and the listener of another."""
    storage = MemoryStorage(CLOCK)
    listener = TlsAlpn01Listener(TlsAlpn01Responder(storage, CLOCK), CLOCK)
    task = asyncio.create_task(listener.serve([listening]))
    yield TlsAlpn01Responder(storage, CLOCK)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()


@contextlib.contextmanager
def visit(port: int, name: str, *protocols: str) -> Iterator[ssl.SSLSocket]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(protocols)
    with (
        socket.create_connection(("127.0.0.1", port), timeout=30, source_address=(VISITOR, 0)) as plain,
        context.wrap_socket(plain, server_hostname=name) as tls,
    ):
        yield tls


def agreed(port: int, name: str) -> tuple[str | None, str | None]:
    with visit(port, name, ACME) as tls:
        return tls.selected_alpn_protocol(), tls.version()


@pytest.fixture
def server(tmp_path: Path, pebble: Pebble, listen: str, server_port: int) -> Iterator[CertServer]:
    """The server as an operator has it behind this nginx."""
    challenges = {"http01": False, "tls_alpn01": {"listen": listen}}
    config = acme_config(pebble.directory_url, pebble.ca_bundle, challenges=challenges, domains=NAMES)
    with CertServer(tmp_path / "server", config, port=server_port) as server:
        yield server


def proven_by(server: CertServer, name: str) -> str:
    return str(json.loads(server.stored()[f"_issued/{name}"])["challenge"])


def test_certificates_are_issued_through_nginx(server: CertServer, pebble: Pebble) -> None:
    with ThreadPoolExecutor(len(NAMES)) as pool:
        replies = [*pool.map(server.cert, NAMES)]
    for name, reply in zip(NAMES, replies, strict=True):
        verified_leaf(reply, name, pebble.root_certificate())
        assert proven_by(server, name) == "tls-alpn-01"
    assert [key for key in server.stored() if key.startswith("_challenges/")] == [], "cleaned up"
    assert pebble.order_count() == len(NAMES)
    assert "Traceback" not in server.log


def test_a_visitor_of_nginx_gets_what_the_ca_validated_through_it(
    server: CertServer, nginx: Nginx, pebble: Pebble
) -> None:
    name = NAMES[0]
    with visit(nginx.https_port, name, "http/1.1") as tls:
        shown = tls.getpeercert(binary_form=True)
    leaf = verified_leaf(server.cert(name), name, pebble.root_certificate())
    assert shown == leaf.public_bytes(serialization.Encoding.DER)
    assert pebble.order_count() == 1


def test_whoever_asks_the_server_for_what_is_not_pending_gets_an_alert(server: CertServer, nginx: Nginx) -> None:
    with pytest.raises(ssl.SSLError, match="unrecognized name"), visit(nginx.https_port, NAMES[0], ACME):
        pytest.fail("shook hands")


@loops
def test_a_wrong_answer_is_refused_by_the_ca(
    new_loop: LoopFactory, pebble: Pebble, listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with serving(listening) as responder:
            present = responder.present

            async def present_another(name: str, token: str, key_authorization: str) -> None:
                await present(name, token, f"{key_authorization}x")

            monkeypatch.setattr(responder, "present", present_another)
            with pytest.raises(ValidationFailed) as failure:
                await order(pebble, responder, "a.example.com")
            assert failure.value.challenge == "tls-alpn-01"
            assert await responder.answer("a.example.com") is None

    run(new_loop, main())


@pytest.mark.parametrize("protocols", [(), ("http/1.1",), ("h2", "http/1.1")])
def test_visitors_reach_the_site_under_their_own_address(nginx: Nginx, protocols: tuple[str, ...]) -> None:
    with visit(nginx.https_port, "www.example.com", *protocols) as tls:
        tls.sendall(b"GET / HTTP/1.0\r\nHost: www.example.com\r\n\r\n")
        answer = b"".join(iter(lambda: tls.recv(4096), b""))
        assert tls.getpeercert(binary_form=True) == nginx.fallback_der
    assert answer.endswith(f"Hello {VISITOR}, from www.example.com\n".encode())


@loops
def test_strangers_of_every_kind_leave_the_listener_whole(new_loop: LoopFactory, listening: socket.socket) -> None:
    async def main() -> None:
        port = listening.getsockname()[1]
        async with serving(listening) as responder:
            await responder.present("a.example.com", "token", "token.thumbprint")
            silent, silent_writer = await asyncio.open_connection("127.0.0.1", port)
            for data in (b"GET / HTTP/1.1\r\n\r\n", bytes(100), b"\x16\x03\x01\x40\x00" + bytes(100_000)):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                with contextlib.suppress(ConnectionError):
                    writer.write(data)
                    assert await reader.read() == b""
                writer.close()
            assert await asyncio.to_thread(agreed, port, "a.example.com") == (ACME, "TLSv1.3")
        assert await silent.read() == b"", "closed with the listener"
        silent_writer.close()

    run(new_loop, main())


# --- the endpoint, and a TLS server in Python


class PythonFrontEnd:
    """A TLS server with nothing but the standard library, that fetches the certificate when the hello has come."""

    def __init__(self, folder: Path, server_url: str) -> None:
        self._file = folder / "challenge.pem"
        self._server_url = server_url
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.sni_callback = self._choose
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> PythonFrontEnd:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listening.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(10)
                with self._context.wrap_socket(connection, server_side=True) as tls:
                    tls.recv(1)

    def _choose(self, tls: ssl.SSLSocket | ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> int | None:
        url = f"{self._server_url}/cert/{name}?alpn=1"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(url, timeout=10) as response:
                answer = json.load(response)
        except OSError:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        self._file.write_text(answer["pkey"] + answer["cert"])
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._file)
        context.set_alpn_protocols([ACME])
        tls.context = context
        return None


@contextlib.asynccontextmanager
async def certificate_server(responder: TlsAlpn01Responder) -> AsyncIterator[str]:
    """The application on a port; gives its URL."""
    storage = MemoryStorage(CLOCK)
    policy = Policy(PolicyRules())
    certificates = Certificates(AnswerCache(CLOCK, 1_000_000), policy, {}, CLOCK)
    app = Application(storage, CLOCK, certificates, policy, tls_alpn01=responder).app
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None, ws="none"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        task = asyncio.create_task(server.serve(sockets=[listening]))
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        await task


async def test_a_certificate_is_issued_through_a_tls_server_that_asks_us(
    tmp_path: Path, start_pebble: StartPebble
) -> None:
    responder = TlsAlpn01Responder(MemoryStorage(CLOCK), CLOCK)
    async with asyncio.timeout(SECONDS), certificate_server(responder) as url:
        with PythonFrontEnd(tmp_path, url) as front_end:
            pebble = start_pebble(http_port=free_port(), tls_port=front_end.port)
            certificate = await order(pebble, responder, "a.example.com", "127.0.0.1")
    assert certificate.names == {"a.example.com", "127.0.0.1"}
