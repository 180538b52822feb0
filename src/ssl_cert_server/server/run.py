"""The running process: listeners, background tasks, signals, and an orderly end."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import structlog
import uvicorn
import uvloop

from ssl_cert_server import __version__
from ssl_cert_server.clock import Clock, SystemClock
from ssl_cert_server.config.addresses import ListenAddress, TcpAddress
from ssl_cert_server.config.schema import Config
from ssl_cert_server.errors import CertServerError
from ssl_cert_server.server.compose import Parts, compose
from ssl_cert_server.server.pid_file import pid_file
from ssl_cert_server.server.sockets import bind

_log = structlog.get_logger()

# nginx keeps its connections for 60 s; one that we closed first would cost a handshake a retry.
_KEEP_ALIVE = 75
_DRAIN = 15
_RESTART_AFTER = (1.0, 60.0)


def run(config: Config, announce: Callable[[list[ListenAddress]], None]) -> None:
    """Serve until SIGTERM or SIGINT. ``announce`` is called with the addresses once they are listened on.

    :raises CertServerError: the server can't start.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(config, SystemClock(), announce))


async def _serve(config: Config, clock: Clock, announce: Callable[[list[ListenAddress]], None]) -> None:
    async with compose(config, clock) as parts:
        listeners = bind(config.listen)
        with pid_file(config.pid_file):
            server = _Server(_uvicorn_config(parts))
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(_survive(name, work, clock)) for name, work in parts.background.items()]
                addresses = [_bound(address, sock) for address, sock in zip(config.listen, listeners, strict=True)]
                _log.info("server.started", version=__version__, listen=", ".join(map(str, addresses)))
                announce(addresses)
                with _stopped_by_signals(server):
                    await server.serve(sockets=listeners)
                for task in tasks:
                    task.cancel()
    _log.info("server.stopped")


class _Server(uvicorn.Server):
    """uvicorn, with signals left to us: its own handling ends the process by re-raising them."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def stop(self) -> None:
        """Stop accepting and drain; asked a second time, stop at once."""
        self.force_exit = self.should_exit
        self.should_exit = True


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
def _stopped_by_signals(server: _Server) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        loop.add_signal_handler(number, server.stop)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


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
