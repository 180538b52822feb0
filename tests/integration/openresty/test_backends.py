"""Servers of every kind: several of them, with TLS, with credentials."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from cryptography import x509

from tests.integration.openresty.conftest import is_up, servers, status
from tests.support import certs
from tests.support.nginx import TEMPLATE, CheckedNginx, Nginx, NginxUnavailableError
from tests.support.stand_in import Answer, Request, StandIn, make_pair
from tests.support.visitors import LIMIT, NAME, handshake, http_get, quickly, until, until_served

CA = certs.make_pair(
    start=time.time() - 3600,
    end=time.time() + 86400,
    extensions=[x509.BasicConstraints(ca=True, path_length=None)],
    subject="CA of the tests",
)


def issue(folder: Path, name: str, ca: certs.Pair = CA) -> tuple[Path, Path]:
    """The files of a certificate and its key."""
    pair = certs.make_pair([name], start=time.time() - 3600, end=time.time() + 86400, signer=ca, subject=name)
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    cert.write_bytes(pair.pem + ca.pem)
    key.write_bytes(pair.key_pem)
    return cert, key


def server_context(folder: Path, name: str, *, ca: certs.Pair = CA, client_ca: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*issue(folder, name, ca))
    if client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=CA.pem.decode())
    return context


def trusting(folder: Path) -> str:
    """The configuration of an nginx that trusts the tests' CA."""
    (folder / "ca.pem").write_bytes(CA.pem)
    return TEMPLATE.read_text().replace(
        "lua_socket_log_errors off;", f"lua_socket_log_errors off; lua_ssl_trusted_certificate {folder / 'ca.pem'};"
    )


async def until_up(nginx: Nginx) -> None:
    """Until the first server is known to be back: that it was probed is told before nginx has its answer."""
    async with asyncio.timeout(LIMIT):
        while True:
            if (await is_up(nginx))[0]:
                return
            await asyncio.sleep(0.1)


# TLS

# Where the handshake with the server must succeed; it is the test's own process that has to take part in it.
PATIENT = "connect_timeout = 20, wait_timeout = 40,"


async def test_https_is_verified(prefix: Path, tmp_path: Path) -> None:
    async with StandIn(tls=server_context(tmp_path, "certs.internal")) as server:
        backend, options = f"https://127.0.0.1:{server.port}", PATIENT + 'server_name = "certs.internal",'
        async with CheckedNginx(prefix, backend=backend, options=options, template=trusting(tmp_path)) as nginx:
            for number in range(20):
                name = f"n{number}.example.com"
                assert await quickly(nginx.https_port, name) == server.pairs[name].der
            assert server.connections < 20, "connections are kept, with TLS, too"


@pytest.mark.parametrize("wrong", ["name", "root", "none trusted"])
async def test_a_server_that_cannot_prove_who_it_is_is_told_nothing(prefix: Path, tmp_path: Path, wrong: str) -> None:
    other = certs.make_pair(
        start=time.time() - 3600,
        end=time.time() + 86400,
        extensions=[x509.BasicConstraints(ca=True, path_length=None)],
    )
    context = server_context(
        tmp_path, "evil.internal" if wrong == "name" else "certs.internal", ca=other if wrong == "root" else CA
    )
    template = None if wrong == "none trusted" else trusting(tmp_path)
    async with StandIn(tls=context) as server:
        options = 'server_name = "certs.internal", token = "secret-token",'
        backend = f"https://127.0.0.1:{server.port}"
        async with CheckedNginx(prefix, backend=backend, options=options, template=template) as nginx:
            assert await quickly(nginx.https_port) == nginx.fallback_der
            assert server.raw == b""
            assert "TLS: " in nginx.error_log


async def test_a_client_certificate(prefix: Path, tmp_path: Path) -> None:
    cert, key = issue(tmp_path, "nginx1")
    async with StandIn(tls=server_context(tmp_path, "certs.internal", client_ca=True)) as server:
        options = PATIENT + f'server_name = "certs.internal", client_cert = "{cert}", client_key = "{key}",'
        backend = f"https://127.0.0.1:{server.port}"
        async with CheckedNginx(prefix, backend=backend, options=options, template=trusting(tmp_path)) as nginx:
            assert await quickly(nginx.https_port) == server.pairs[NAME].der


async def test_without_its_client_certificate_it_gets_nothing(prefix: Path, tmp_path: Path) -> None:
    async with StandIn(tls=server_context(tmp_path, "certs.internal", client_ca=True)) as server:
        options = 'server_name = "certs.internal",'
        backend = f"https://127.0.0.1:{server.port}"
        async with CheckedNginx(prefix, backend=backend, options=options, template=trusting(tmp_path)) as nginx:
            assert await quickly(nginx.https_port) == nginx.fallback_der
            assert server.requests == []


def test_a_client_key_that_is_anothers_is_told_at_start(prefix: Path, tmp_path: Path) -> None:
    cert, _ = issue(tmp_path, "nginx1")
    _, key = issue(tmp_path, "nginx2")
    options = f'client_cert = "{cert}", client_key = "{key}",'
    with pytest.raises(NginxUnavailableError, match="certificate and key do not match"):
        Nginx(prefix, backend="127.0.0.1:1", options=options).start()


# Tokens


async def test_a_token_goes_with_each_request_but_a_challenge(prefix: Path) -> None:
    async with StandIn(changes=True) as server:
        server.bearer = "s3cret.Token_~+/=="
        server.tokens["token"] = "token.thumbprint"
        options = f'token = "{server.bearer}",'
        async with CheckedNginx(prefix, backend=server.backend, options=options) as nginx:
            assert await quickly(nginx.https_port) == server.pairs[NAME].der
            await until(lambda: len(server.polls) == 2 and len(server.ocsp_requests) == 1)
            path = "/.well-known/acme-challenge/token"
            assert await http_get(nginx.http_port, path, NAME) == (200, b"token.thumbprint")
            assert "authorization" not in server.requests[-1].headers
            assert server.bearer not in nginx.error_log
            assert server.bearer not in json.dumps(await status(nginx))


async def test_a_token_file_is_read_again_when_the_token_is_refused(prefix: Path, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    async with StandIn() as server:
        server.bearer = "first"
        options = f'failure_ttl = 1, token_file = "{file}",'
        async with CheckedNginx(prefix, backend=server.backend, options=options) as nginx:
            assert await quickly(nginx.https_port, "a.example.com") == server.pairs["a.example.com"].der
            server.bearer = "second"
            file.write_text("second\n")
            assert await quickly(nginx.https_port, "b.example.com") == server.pairs["b.example.com"].der
            file.write_text("not a token\r\nX: y\n")
            server.bearer = "third"
            assert await quickly(nginx.https_port, "c.example.com") == nginx.fallback_der
            assert b"X: y" not in server.raw
            file.write_text("third")
            server.pairs["c.example.com"] = make_pair("c.example.com")
            await until_served(nginx.https_port, server.pairs["c.example.com"].der, "c.example.com")
            for token in ("first", "second", "third"):
                assert token not in nginx.error_log


# Several servers


async def test_the_next_is_asked_when_one_is_down_and_stays_in_use(prefix: Path) -> None:
    async with (
        StandIn() as first,
        StandIn() as second,
        CheckedNginx(prefix, backend="", options=servers(first, second)) as nginx,
    ):
        assert await quickly(nginx.https_port, "a.example.com") == first.pairs["a.example.com"].der
        await first.stop()
        assert await quickly(nginx.https_port, "b.example.com") == second.pairs["b.example.com"].der
        assert [server["current"] for server in (await status(nginx))["backends"]] == [False, True]
        await first.start()
        await until(lambda: len(first.probes) > 0)
        await until_up(nginx)
        assert await quickly(nginx.https_port, "c.example.com") == second.pairs["c.example.com"].der
        assert "c.example.com" not in first.pairs
        await second.stop()
        assert await quickly(nginx.https_port, "d.example.com") == first.pairs["d.example.com"].der


@pytest.mark.parametrize(
    "trouble",
    [
        Answer(502),
        Answer(503, headers={"Retry-After": "60"}),
        Answer(504),
        Answer(raw=b"nonsense", close=True),
        Answer(raw=b"", close=True),
        Answer(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n{", reset=True),
    ],
    ids=["502", "503", "504", "nonsense", "closed", "reset in mid-body"],
)
async def test_the_next_is_asked_when_one_is_in_trouble(prefix: Path, trouble: Answer) -> None:
    async with StandIn() as first, StandIn() as second:

        async def troubled(_: Request) -> Answer:
            return trouble

        first.answer = troubled
        async with CheckedNginx(prefix, backend="", options=servers(first, second)) as nginx:
            assert await quickly(nginx.https_port) == second.pairs[NAME].der
            assert await quickly(nginx.https_port, "a.example.com") == second.pairs["a.example.com"].der
            assert first.paths == [f"/cert/{NAME}"]


@pytest.mark.parametrize("code", [400, 401, 403, 500])
async def test_what_is_about_the_name_is_no_reason_to_ask_another(prefix: Path, code: int) -> None:
    async with StandIn() as first, StandIn() as second:

        async def refuse(_: Request) -> Answer:
            return Answer(code)

        first.answer = refuse
        async with CheckedNginx(prefix, backend="", options=servers(first, second)) as nginx:
            assert await quickly(nginx.https_port) == nginx.fallback_der
            assert second.requests == []


async def test_one_that_never_answers_is_left_for_the_next_in_time(prefix: Path) -> None:
    async with StandIn() as first, StandIn() as second:

        async def never(_: Request) -> Answer:
            await asyncio.Event().wait()
            return Answer()

        first.answer = never
        options = servers(first, second) + "fetch_timeout = 10, wait_timeout = 20,"
        async with CheckedNginx(prefix, backend="", options=options) as nginx:
            assert await quickly(nginx.https_port) == second.pairs[NAME].der


async def test_a_dead_server_is_tried_by_one_worker_and_rarely(prefix: Path) -> None:
    async with (
        StandIn() as server,
        CheckedNginx(prefix, backend=server.backend, workers=3) as nginx,
    ):
        der = await handshake(nginx.https_port)
        await server.stop()
        listener = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", server.port)
        attempts = 0

        async def count(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal attempts
            attempts += 1
            writer.transport.abort()

        listener.close()
        await listener.wait_closed()
        assert await quickly(nginx.https_port, "cold.example.com") == nginx.fallback_der
        # What is wrong with it now is only that every connection breaks.
        listener = await asyncio.start_server(count, "127.0.0.1", server.port)
        end = time.monotonic() + 8
        while time.monotonic() < end:
            assert await quickly(nginx.https_port, "cold.example.com") == nginx.fallback_der
            assert await quickly(nginx.https_port) == der
        listener.close()
        assert attempts < 20
        await server.start()
        await until(lambda: len(server.probes) > 0)
        await until_up(nginx)
        assert await quickly(nginx.https_port, "new.example.com") == server.pairs["new.example.com"].der


async def test_changes_are_heard_from_whichever_server_is_there(prefix: Path) -> None:
    async with (
        StandIn(changes=True) as first,
        StandIn(changes=True) as second,
        CheckedNginx(prefix, backend="", options=servers(first, second)) as nginx,
    ):
        await quickly(nginx.https_port)
        await until(lambda: any("since=0" in poll.path for poll in first.polls))
        await first.stop()
        await until(lambda: len(second.polls) > 0)
        second.pairs[NAME] = make_pair(NAME)
        second.announce(NAME)
        await until_served(nginx.https_port, second.pairs[NAME].der)


async def test_certificates_that_take_long_take_no_server_out_of_service(prefix: Path) -> None:
    async with StandIn() as first, StandIn() as second:
        members, slow = (first, second), 10

        def never_for_some(server: StandIn) -> Callable[[Request], Awaitable[Answer]]:
            async def answer(request: Request) -> Answer:
                if "/slow" in request.path:
                    await asyncio.Event().wait()
                return await server.usual(request)

            return answer

        for server in members:
            server.answer = never_for_some(server)
        options = servers(*members) + "fetch_timeout = 3, wait_timeout = 20,"
        async with CheckedNginx(prefix, backend="", options=options, workers=2) as nginx:

            async def visit(number: int) -> bytes:
                await asyncio.sleep(number / 2)
                return await handshake(nginx.https_port, f"slow{number}.example.com")

            visitors = [asyncio.create_task(visit(number)) for number in range(slow)]
            asked = 0
            async with asyncio.timeout(60):
                while not all(visitor.done() for visitor in visitors):
                    name = f"n{asked}.example.com"
                    assert await handshake(nginx.https_port, name) in {
                        server.pairs[name].der for server in members if name in server.pairs
                    }
                    asked += 1
                    await asyncio.sleep(0.05)
            assert set(await asyncio.gather(*visitors)) == {nginx.fallback_der}
            for server in members:
                assert sum("/slow" in path for path in server.paths) == slow, "each of them was asked"
                assert server.probes


async def test_one_that_hangs_altogether_is_taken_out_of_service(prefix: Path) -> None:
    async with StandIn() as second:
        hung = asyncio.Event()

        async def hang(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await hung.wait()
            writer.close()

        listener = await asyncio.start_server(hang, "127.0.0.1", 0)
        address = f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        options = f'backend = nil, backends = {{ "{address}", "{second.backend}" }}, fetch_timeout = 4,'
        async with CheckedNginx(prefix, backend="", options=options, workers=2) as nginx:
            assert await quickly(nginx.https_port) == second.pairs[NAME].der
            async with asyncio.timeout(60):
                while True:
                    if await is_up(nginx) == [False, True]:
                        break
                    await asyncio.sleep(0.1)
            hung.set()
            listener.close()
