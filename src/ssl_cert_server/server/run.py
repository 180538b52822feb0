"""The running process: listeners, background tasks, signals, and an orderly end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import cast

import structlog
import uvicorn
import uvloop

from ssl_cert_server import __version__
from ssl_cert_server.challenges.tlsalpn01_listener import TlsAlpn01Listener
from ssl_cert_server.clock import Clock, SystemClock
from ssl_cert_server.config.addresses import ListenAddress, TcpAddress
from ssl_cert_server.config.schema import Config
from ssl_cert_server.errors import CertServerError
from ssl_cert_server.http.protocol import CertServerProtocol
from ssl_cert_server.server.admission import Admission
from ssl_cert_server.server.compose import Parts, compose
from ssl_cert_server.server.descriptors import bounds, raise_limit
from ssl_cert_server.server.pid_file import pid_file
from ssl_cert_server.server.sockets import bind

_log = structlog.get_logger()

# nginx keeps its connections for 60 s; one that we closed first would cost a handshake a retry.
_KEEP_ALIVE = 75
_PATIENCE = 10
_DRAIN = 15
_RESTART_AFTER = (1.0, 60.0)


def run(config: Config, announce: Callable[[list[ListenAddress]], None]) -> None:
    """Serve until SIGTERM or SIGINT. ``announce`` is called with the addresses once they are listened on.

    :raises CertServerError: the server can't start.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(config, SystemClock(), announce))


async def _serve(config: Config, clock: Clock, announce: Callable[[list[ListenAddress]], None]) -> None:
    async with compose(config, clock, bounds(raise_limit())) as parts:
        server = _Server(_uvicorn_config(parts), stop_polls=parts.stop_polls, give_up=parts.give_up)
        # Before anybody can see that it runs: whoever sees it may signal it.
        with _signals(server):
            listeners = bind(config.listen)
            with _challenge_listener(config, parts, clock) as answering, pid_file(config.pid_file):
                background = {**parts.background, **answering}
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(_survive(name, work, clock)) for name, work in background.items()]
                    addresses = [_bound(address, sock) for address, sock in zip(config.listen, listeners, strict=True)]
                    _log.info("server.started", version=__version__, listen=", ".join(map(str, addresses)))
                    announce(addresses)
                    await server.serve(sockets=listeners)
                    for task in tasks:
                        task.cancel()
    _log.info("server.stopped")


@contextmanager
def _challenge_listener(
    config: Config, parts: Parts, clock: Clock
) -> Iterator[dict[str, Callable[[], Awaitable[None]]]]:
    """Bind where tls-alpn-01 is answered, and give the work of answering, where there is any."""
    listeners = bind(config.challenges.tls_alpn01.listen)
    try:
        if parts.tls_alpn01 is not None and listeners:
            listener = TlsAlpn01Listener(parts.tls_alpn01, clock, parts.bounds.tls_alpn01)
            yield {"tls_alpn01": lambda: listener.serve(listeners)}
        else:
            yield {}
    finally:
        for bound in listeners:
            bound.close()


class _Server(uvicorn.Server):
    """uvicorn, with signals left to us: its own handling ends the process by re-raising them."""

    def __init__(
        self, config: uvicorn.Config, *, stop_polls: Callable[[], None], give_up: Callable[[], Awaitable[None]]
    ) -> None:
        super().__init__(config)
        self._stop_polls = stop_polls
        self._give_up = give_up
        self._admission: Admission | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections; uvicorn would leave that to uvloop, which stops when descriptors run out."""
        self.servers = []
        protocol = cast("type[CertServerProtocol]", self.config.http_protocol_class)
        self._admission = Admission(
            lambda: protocol(self.config, self.server_state, self.lifespan.state),
            self.server_state.connections,
            protocol.load,
        )
        self._admission.start(sockets or [])
        self.started = True

    def stop(self) -> None:
        """Stop accepting and drain; asked a second time, stop at once."""
        self.force_exit = self.should_exit
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain: who waits for news alone is let go, who waits for an issuance is told to come back towards the end."""
        if self._admission is not None:
            self._admission.close()
        self._stop_polls()
        giving_up = asyncio.create_task(self._give_up_late())
        try:
            await super().shutdown(sockets)
        finally:
            giving_up.cancel()

    async def _give_up_late(self) -> None:
        await asyncio.sleep(_PATIENCE)
        await self._give_up()


def _uvicorn_config(parts: Parts) -> uvicorn.Config:
    return uvicorn.Config(
        parts.app,
        http=parts.protocol,
        loop="none",
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=_DRAIN,
    )


@contextmanager
def _signals(server: _Server) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    # SIGHUP is what operators send to have a configuration read again, and what a closed terminal sends.
    at_hangup = server.stop if os.isatty(0) else _refuse_reload
    handlers = {signal.SIGINT: server.stop, signal.SIGTERM: server.stop, signal.SIGHUP: at_hangup}
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)


def _refuse_reload() -> None:
    _log.warning("server.no_reload", remedy="restart the server to have the configuration read again")


async def _survive(name: str, work: Callable[[], Awaitable[None]], clock: Clock) -> None:
    """Run a background task until it returns, starting it again with a growing pause when it fails."""
    pause, longest = _RESTART_AFTER
    while True:
        try:
            await work()
            return
        except CertServerError as error:
            _log.error("background.failed", task=name, again_in=pause, reason=str(error))
        except Exception:  # noqa: BLE001 - whatever it is, it is told, and the server goes on
            _log.exception("background.crashed", task=name, again_in=pause)
        await clock.sleep(pause * (1 + clock.random()))
        pause = min(pause * 2, longest)


def _bound(address: ListenAddress, listener: socket.socket) -> ListenAddress:
    if isinstance(address, TcpAddress):
        return TcpAddress(address.host, listener.getsockname()[1])
    return address
