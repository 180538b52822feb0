"""Connections carried on between TCP ports and Unix sockets: the only way into, and out of, another network."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack


async def relay(listen: str, target: str) -> asyncio.Server:
    """Carry every connection to ``listen`` on to ``target``; either is ``address:port`` or the path of a socket."""

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there_reader, there_writer = await _connect(target)
        except OSError:
            writer.close()
            return
        await asyncio.gather(_copy(reader, there_writer), _copy(there_reader, writer))

    if "/" in listen:
        return await asyncio.start_unix_server(carry, listen)
    host, _, port = listen.rpartition(":")
    return await asyncio.start_server(carry, host, int(port))


def relay_argv(listen: str, target: str) -> list[str]:
    """Give the command of a process that does so, for where this one can't be."""
    return [sys.executable, __file__, listen, target]


async def _connect(target: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if "/" in target:
        return await asyncio.open_unix_connection(target)
    host, _, port = target.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()
    except (OSError, asyncio.CancelledError):
        writer.transport.abort()  # one side is gone, or the relay ends


async def _main(listen: str, target: str) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(await relay(listen, target))
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
