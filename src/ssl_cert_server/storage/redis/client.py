"""Calls to Redis: each with a deadline, tried again where that is safe, its failures in our words."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence

from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import NoScriptError, RedisError

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import StorageError
from ssl_cert_server.storage.redis.connection import Finder, RedisConnection, Reply, Word, exchange, make_connection
from ssl_cert_server.storage.redis.discovery import ByCluster, BySentinels, Fixed
from ssl_cert_server.storage.redis.failures import Refused, code_of, is_not_the_primary, message_of
from ssl_cert_server.storage.redis.pool import Pool
from ssl_cert_server.storage.redis.settings import Address, RedisSettings
from ssl_cert_server.storage.redis.tls import TlsContexts

LISTENERS = 4
"""Connections for reads that block; they are no part of the pool."""

_PAUSES = (0.05, 0.25)


class Script:
    """A Lua script: known to the server by its hash once it ran there."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._hash = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    def call(self, keys: Sequence[str], args: Sequence[Word]) -> list[Word]:
        return ["EVALSHA", self._hash, len(keys), *keys, *args]

    def whole(self, command: Sequence[Word]) -> list[Word]:
        """Give ``command``, made by :meth:`call`, with the script itself."""
        return ["EVAL", self._text, *command[2:]]


class Client:
    """The way to the server that can be written. Nothing is connected before the first call."""

    def __init__(self, settings: RedisSettings, clock: Clock, touched: str) -> None:
        """``touched`` is a key that a durable call may write.

        :raises StorageError: the settings make no sense.
        """
        wrong = [f"{name} {sentence}" for name, sentence in settings.problems()]
        if wrong:
            raise StorageError(f"can't use Redis: {'; '.join(wrong)}")
        self._settings = settings
        self._clock = clock
        self._touched = touched
        self._tls = TlsContexts(settings)
        self._address = settings.addresses()[0]
        self._finder = self._make_finder()
        primary = self._finder.must_tell_its_role
        self._pool = Pool(settings.pool_size, self._make_connection, must_be_primary=primary)
        self._listeners = Pool(LISTENERS, self._make_connection, must_be_primary=primary)
        self._where = self._say_where()
        self._closed = False

    async def run(
        self, what: str, script: Script, keys: Sequence[str], args: Sequence[Word] = (), *, durable: bool = False
    ) -> Reply:
        """Run a script; ``durable`` waits for the replicas that the settings ask for. ``what``: "read a.example"."""
        return await self._deadlined(what, script.call(keys, args), script, durable=durable)

    async def command(self, what: str, *words: Word, durable: bool = False) -> Reply:
        """Run a command."""
        return await self._deadlined(what, words, None, durable=durable)

    async def listen(self, what: str, seconds: float, *words: Word) -> Reply:
        """Run a command that blocks for ``seconds`` at most; at most :data:`LISTENERS` do it at once."""
        return await self._deadlined(what, words, None, pool=self._listeners, blocks=seconds)

    async def close(self) -> None:
        self._closed = True
        self._pool.close()
        self._listeners.close()
        await asyncio.sleep(0)  # dropped connections are closed in the loop's next turn

    async def _deadlined(
        self,
        what: str,
        command: Sequence[Word],
        script: Script | None,
        *,
        durable: bool = False,
        pool: Pool | None = None,
        blocks: float = 0.0,
    ) -> Reply:
        if self._closed:
            raise StorageError(f"can't {what} in Redis at {self._where}: the storage is closed")
        commands = [command, *(self._wait_for_replicas() if durable else [])]
        try:
            async with asyncio.timeout(self._settings.timeout + blocks):
                replies, one_of_several = await self._attempts(commands, script, pool or self._pool)
        except TimeoutError:
            # A machine that is gone closes nothing: every idle connection to it would cost as much time.
            (pool or self._pool).forget()
            failure = StorageError(f"can't {what} in Redis at {self._where}: no answer in {self._settings.timeout:g} s")
        except (RedisError, OSError) as error:
            failure = StorageError(message_of(what, self._where, error))
        else:
            return self._checked(what, replies, StorageError if one_of_several else Refused)
        raise failure

    async def _attempts(
        self, commands: list[Sequence[Word]], script: Script | None, pool: Pool
    ) -> tuple[list[Reply], bool]:
        """Try anew where the connection was lost, or led to a server that isn't the primary.

        Give the replies, and whether there was an attempt whose end is not known.
        """
        lost = False
        for pause in _PAUSES:
            try:
                replies = await self._once(commands, script, pool)
                if not _led_astray(replies):
                    return replies, lost
            except NoConnection as error:
                if code_of(error) or self._closed:
                    raise
                lost = True
            await self._clock.sleep(pause * (0.5 + self._clock.random()))
        return await self._once(commands, script, pool), lost

    async def _once(self, commands: list[Sequence[Word]], script: Script | None, pool: Pool) -> list[Reply]:
        async with pool.connection() as connection:
            replies = await exchange(connection, commands)
            if script is not None and isinstance(replies[0], NoScriptError):
                replies = await exchange(connection, [script.whole(commands[0]), *commands[1:]])
            # A primary whose replicas are gone may have been replaced by one of them.
            if _led_astray(replies) or self._too_few_have_it(replies):
                connection.doubt()
                pool.forget()
            return replies

    def _wait_for_replicas(self) -> list[Sequence[Word]]:
        wanted = self._settings.wait_replicas
        if not wanted:
            return []
        # WAIT is about this connection's last write, and a call that changes nothing (as when it is tried again)
        # writes nothing: hence one that always does. A script that must be sent again waits twice.
        return [("SET", self._touched, ""), ("WAIT", wanted, int(self._settings.timeout * 400))]

    def _checked(self, what: str, replies: list[Reply], refused: type[StorageError]) -> Reply:
        if isinstance(replies[0], RedisError):
            raise refused(message_of(what, self._where, replies[0]))
        for reply in replies[1:]:
            if isinstance(reply, RedisError):
                raise StorageError(message_of(what, self._where, reply))
        if self._too_few_have_it(replies):
            raise StorageError(
                f"can't {what} durably in Redis at {self._where}: only {replies[-1]} of {self._settings.wait_replicas} "
                "replicas (wait_replicas) have it; it may be there none the less"
            )
        return replies[0]

    def _too_few_have_it(self, replies: list[Reply]) -> bool:
        return len(replies) > 1 and isinstance(replies[-1], int) and replies[-1] < self._settings.wait_replicas

    def _make_finder(self) -> Finder:
        settings = self._settings
        several = settings.sentinel_addresses() or settings.addresses()
        patience = settings.timeout / (len(several) + 1)
        if settings.sentinels:
            return BySentinels(several, self._ask_sentinel, patience, settings.master_name)
        if settings.cluster:
            return ByCluster(several, self._ask_node, patience, settings.prefix)
        return Fixed(self._address)

    def _make_connection(self) -> RedisConnection:
        return self._to(self._address, self._finder)

    def _ask_node(self, node: Address) -> RedisConnection:
        return self._to(node, Fixed(node))

    def _ask_sentinel(self, sentinel: Address) -> RedisConnection:
        return make_connection(
            sentinel,
            self._settings.sentinel_username,
            self._settings.sentinel_password,
            Fixed(sentinel),
            self._tls.current if sentinel.tls else None,
        )

    def _to(self, address: Address, finder: Finder) -> RedisConnection:
        tls = self._tls.current if address.tls else None
        return make_connection(address, self._settings.username, self._settings.password, finder, tls)

    def _say_where(self) -> str:
        settings = self._settings
        if settings.sentinels:
            return f"{settings.master_name} (Sentinels {', '.join(str(one) for one in settings.sentinel_addresses())})"
        return ", ".join(str(address) for address in settings.addresses())


def _led_astray(replies: Sequence[Reply]) -> bool:
    return any(isinstance(reply, RedisError) and is_not_the_primary(reply) for reply in replies)
