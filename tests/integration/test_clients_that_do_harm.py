"""Clients that hang up, don't read, send too much or stay for ever: names in memory are answered all the same."""

from __future__ import annotations

import http.client
import json
import re
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.support.server import CertServer
from tests.support.waiting import wait_until

HOT = b"GET /cert/hot.test HTTP/1.1\r\nHost: x\r\n\r\n"
# A query sends the same request past the fast lane.
ORDINARY = b"GET /cert/hot.test?ordinary=1 HTTP/1.1\r\nHost: x\r\n\r\n"
LOCAL_CA = {"local_ca": {"enable": True}}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[CertServer]:
    """A server with one name in memory."""
    yield from started(CertServer(tmp_path / "server", LOCAL_CA))


def started(server: CertServer) -> Iterator[CertServer]:
    with server:
        assert server.cert("hot.test").status == 200
        yield server


@pytest.fixture
def clients() -> Iterator[Clients]:
    with Clients() as clients:
        yield clients


class Clients(ExitStack):
    """Connections of a test, closed in the end."""

    def connect(self, server: CertServer, request: bytes = b"", *, buffer: int | None = None) -> socket.socket:
        """Open a connection and send a request; ``buffer`` bounds what the kernel keeps of the answers."""
        connection = self.enter_context(socket.socket())
        if buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        connection.settimeout(60)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(request)
        return connection


def memory(server: CertServer) -> int:
    """MiB that the server has resident."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) // 1024  # type: ignore[index]


def sockets(server: CertServer) -> int:
    """How many sockets the server has open; the number of its files changes by itself."""
    found = 0
    for descriptor in Path(f"/proc/{server.process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found += str(descriptor.readlink()).startswith("socket:")
    return found


def is_open(connection: socket.socket) -> bool:
    """Whether the server still has the connection open; what it sent stays unread."""
    state = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    return state == 1  # TCP_ESTABLISHED


def status(connection: socket.socket) -> int:
    """Read one answer to the end, and return its status."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    response.read()
    return response.status


def poll(server: CertServer, wait: int) -> bytes:
    cursor = json.loads(server.get("/v1/changes").body)["cursor"]
    return f"GET /v1/changes?since={cursor}&wait={wait} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


@pytest.mark.parametrize("behind", [b"", HOT, HOT * 500], ids=["alone", "pipelined", "many-pipelined"])
def test_pollers_that_hung_up_do_not_count(server: CertServer, behind: bytes) -> None:
    before, request = sockets(server), poll(server, 50)
    for _ in range(3):
        with Clients() as clients:
            for _ in range(400):
                clients.connect(server, request + behind)
            # The last one waits, so all of them do.
            wait_until(lambda: sockets(server) >= before + 390)
        wait_until(lambda: sockets(server) < before + 20, seconds=25)  # half of what the wait would have taken
    # 1,000 may wait at once: of the 1,200 above none may count any more.
    with Clients() as clients:
        waiting = [clients.connect(server, request) for _ in range(1000)]
        wait_until(lambda: sockets(server) >= before + 990)
        assert server.cert("hot.test").status == 200
        for connection in waiting:
            connection.setblocking(False)
            with pytest.raises(BlockingIOError):
                connection.recv(1)
    assert "Traceback" not in server.log


@pytest.mark.parametrize(
    "request_bytes", [HOT, ORDINARY, HOT.replace(b"GET", b"HEAD")], ids=["hot", "ordinary", "head"]
)
def test_clients_that_pipeline_and_never_read(server: CertServer, clients: Clients, request_bytes: bytes) -> None:
    before = memory(server)
    stuck = [clients.connect(server, buffer=4096) for _ in range(300)]
    highest = 0
    for connection in stuck:
        connection.setblocking(False)
        pipelined = request_bytes * 2000
        with suppress(BlockingIOError, ConnectionError):
            connection.send(pipelined)
        if connection.fileno() % 10 == 0:
            assert server.cert("hot.test").status == 200
            highest = max(highest, memory(server))
    for _ in range(100):
        assert server.cert("hot.test").status == 200
        highest = max(highest, memory(server))
    assert highest - before < 64
    if b"HEAD" not in request_bytes:  # those answers fit into what the kernel keeps
        wait_until(lambda: not any(is_open(connection) for connection in stuck))
    assert server.cert("hot.test").status == 200
    assert "Traceback" not in server.log


def test_a_client_that_goes_away_while_answers_are_due_leaves_no_traceback(server: CertServer) -> None:
    before = sockets(server)
    with Clients() as clients:
        for _ in range(10):
            connection = clients.connect(server, buffer=4096)
            connection.settimeout(0.5)
            with suppress(TimeoutError):  # the server reads no more, since its answers aren't read
                while True:
                    connection.sendall(HOT * 100)
            clients.connect(server, poll(server, 1) + ORDINARY * 3)
    wait_until(lambda: sockets(server) <= before)
    assert server.cert("hot.test").status == 200
    assert "Traceback" not in server.log


def test_a_client_that_pipelines_much_and_reads_slowly_gets_every_answer(server: CertServer, clients: Clients) -> None:
    connection = clients.connect(server, buffer=4096)
    requests = (HOT * 3 + ORDINARY) * 200
    connection.setblocking(False)
    sent, received = 0, bytearray()

    def exchange() -> bool:
        nonlocal sent
        with suppress(BlockingIOError):
            sent += connection.send(requests[sent : sent + 4000]) if sent < len(requests) else 0
        with suppress(BlockingIOError):
            received.extend(connection.recv(65536))
        return received.count(b"HTTP/1.1 200 OK") == 800

    while not exchange():
        assert is_open(connection)


class TestFileDescriptors:
    """A limit on descriptors: known names always get one."""

    @pytest.fixture
    def few(self, tmp_path: Path) -> Iterator[CertServer]:
        """A server that may have 256 descriptors, with one name in memory."""
        yield from started(CertServer(tmp_path / "few", LOCAL_CA, within=["prlimit", "--nofile=256:256"]))

    def test_the_soft_limit_is_raised_to_the_hard_one(self, tmp_path: Path) -> None:
        with CertServer(tmp_path / "low", LOCAL_CA, within=["prlimit", "--nofile=1024:4096"]) as server:
            assert resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE) == (4096, 4096)

    @pytest.mark.parametrize("start", [b"", b"GET /cert/ho", HOT], ids=["silent", "half-sent", "idle"])
    def test_connections_without_a_request_are_closed_for_others(
        self, few: CertServer, clients: Clients, start: bytes
    ) -> None:
        for _ in range(400):
            clients.connect(few, start)
        assert few.cert("hot.test").status == 200
        assert few.cert("new.test").status == 200  # storage has descriptors, too
        assert few.log.count("connections.full") == 1
        assert "connections.not_accepted" not in few.log

    def test_with_every_bound_in_use_known_names_are_answered(self, few: CertServer, clients: Clients) -> None:
        request = poll(few, 55)
        refused = [clients.connect(few, request) for _ in range(130)][-1]
        assert refused.recv(65536).startswith(b"HTTP/1.1 500 ")
        for start in (b"", b"GET /cert/ho", ORDINARY * 100, HOT * 2000):
            for _ in range(100):
                clients.connect(few, buffer=4096).send(start)
        for _ in range(50):
            assert few.cert("hot.test").status == 200
        reply = few.get("/cert/hot.test?ordinary=1")
        assert reply.status == 200
        # A name that is new is refused while too many requests wait; those of the pipelines are answered by and by.
        wait_until(lambda: few.cert("new.test").status == 200)
        assert "Traceback" not in few.log

    def test_without_any_descriptor_it_accepts_again_once_there_is_one(
        self, server: CertServer, clients: Clients
    ) -> None:
        poller = clients.connect(server, poll(server, 55))
        idle = clients.connect(server, HOT)
        assert idle.recv(65536).startswith(b"HTTP/1.1 200 ")
        pid, usual = server.process.pid, resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, usual[1]))
        late = [clients.connect(server, HOT) for _ in range(100)]
        wait_until(lambda: "connections.not_accepted" in server.log)
        # Idle ones went, the one with a request did not.
        wait_until(lambda: not is_open(idle))
        assert is_open(poller)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, usual)
        for connection in late:
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        assert server.cert("hot.test").status == 200
        assert server.log.count("connections.not_accepted") == 1
        assert "Traceback" not in server.log

    @pytest.fixture
    def issuing(self, tmp_path: Path) -> Iterator[CertServer]:
        """A server with one name in memory, and one that it would ask a CA for; nobody listens there."""
        nobody = {"acme": [{"directory_url": "https://127.0.0.1:9/directory"}], "domains": ["new.example.com"]}
        yield from started(CertServer(tmp_path / "issuing", {**LOCAL_CA, **nobody, "preflight": {"caa": False}}))

    def test_storage_without_a_descriptor_fails_in_words_and_works_again(
        self, issuing: CertServer, clients: Clients
    ) -> None:
        connection = clients.connect(issuing, HOT)
        assert status(connection) == 200
        pid, usual = issuing.process.pid, resource.prlimit(issuing.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, usual[1]))
        new, readyz = HOT.replace(b"hot.test", b"new.example.com"), HOT.replace(b"cert/hot.test", b"readyz")
        for request, expected in [(new, 500), (HOT, 200), (ORDINARY, 200), (readyz, 503), (HOT, 200)]:
            connection.sendall(request)
            assert status(connection) == expected
        assert "Too many open files" in issuing.log
        assert "Traceback" not in issuing.log
        resource.prlimit(pid, resource.RLIMIT_NOFILE, usual)
        wait_until(lambda: issuing.get("/readyz").status == 200)
        assert issuing.cert("hot.test").status == 200
