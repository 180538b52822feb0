"""Accepting connections in asyncio so that none outlives its listener."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Listener:
    """Has ``serve`` called for each connection, in a task of its own, which has to close it.

    asyncio's own server leaves a connection that was accepted just before it ends to nobody, and open.
    """

    def __init__(self, listening: socket.socket, serve: Serve, tls: ssl.SSLContext | None = None) -> None:
        listening.setblocking(False)
        self._listening = listening
        self._serve = serve
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()
        asyncio.get_running_loop().add_reader(listening, self._accept)

    def stop_accepting(self) -> None:
        """Close the socket; connections stay."""
        asyncio.get_running_loop().remove_reader(self._listening)
        self._listening.close()

    async def drop_connections(self) -> None:
        """Cancel the tasks of all connections, and wait for them."""
        tasks = [*self._tasks]
        await asyncio.sleep(0)  # whoever is cancelled before it began closes nothing
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:
        """Stop accepting, and drop all connections."""
        self.stop_accepting()
        await self.drop_connections()

    def _accept(self) -> None:
        with suppress(OSError):  # it left in the meantime
            connection, _ = self._listening.accept()
            connection.setblocking(False)
            task = asyncio.create_task(self._run(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            transport, _ = await loop.connect_accepted_socket(lambda: protocol, connection, ssl=self._tls)
        except (OSError, asyncio.CancelledError):
            connection.close()  # the other side left in the midst of the handshake, or this one ends
            return
        await self._serve(reader, asyncio.StreamWriter(transport, protocol, reader, loop))
