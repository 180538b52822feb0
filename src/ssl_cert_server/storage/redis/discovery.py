"""Where the one server is that can be written: at a fixed address, as Sentinels say, or as a Cluster's nodes say."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from redis.crc import key_slot
from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import ResponseError

from ssl_cert_server.storage.redis.connection import Found, RedisConnection, Reply, connect, exchange
from ssl_cert_server.storage.redis.failures import reason_of
from ssl_cert_server.storage.redis.settings import Address

Ask = Callable[[Address], RedisConnection]
"""Makes a connection to a node or Sentinel that is asked."""


class Fixed:
    """One address."""

    must_tell_its_role = False

    def __init__(self, address: Address) -> None:
        self._address = address

    async def find(self) -> Found:
        return Found(self._address.host, self._address.port)

    def doubt(self, found: Found) -> None:
        """There is no other."""


class Asked(ABC):
    """What the first of several that knows says; it is asked first the next time, unless that led nowhere.

    One that is cut off from the others goes on telling what it once knew, and what was true then.
    """

    def __init__(self, addresses: Sequence[Address], ask: Ask, patience: float) -> None:
        """``patience``: seconds for one that doesn't answer."""
        self._addresses = list(addresses)
        self._ask = ask
        self._patience = patience

    async def find(self) -> Found:
        reasons = []
        for address in [*self._addresses]:
            try:
                async with asyncio.timeout(self._patience):
                    host, port = await self._asked(address)
            except TimeoutError:
                reasons.append(f"{address}: no answer")
                continue
            except (NoConnection, ResponseError) as error:
                reasons.append(f"{address}: {reason_of(error)}")
                continue
            self._addresses.remove(address)
            self._addresses.insert(0, address)
            return Found(host, port, address)
        raise NoConnection("; ".join(reasons))

    def doubt(self, found: Found) -> None:
        """Have whoever said so be asked last."""
        if found.teller is not None:
            self._addresses.remove(found.teller)
            self._addresses.append(found.teller)

    async def _asked(self, address: Address) -> tuple[str, int]:
        connection = self._ask(address)
        try:
            await connect(connection)
            [reply] = await exchange(connection, [self._question()])
        finally:
            connection.drop()
        if isinstance(reply, ResponseError):
            raise reply
        return self._answer(reply, address)

    @abstractmethod
    def _question(self) -> tuple[str, ...]:
        """Give the command that is sent."""

    @abstractmethod
    def _answer(self, reply: Reply, asked: Address, /) -> tuple[str, int]:
        """Take host and port out of what ``asked`` replied.

        :raises NoConnection: it knows none.
        """


class BySentinels(Asked):
    """The primary that the Sentinels watch under a name."""

    must_tell_its_role = True

    def __init__(self, addresses: Sequence[Address], ask: Ask, patience: float, master_name: str) -> None:
        super().__init__(addresses, ask, patience)
        self._master_name = master_name

    def _question(self) -> tuple[str, ...]:
        return ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._master_name)

    def _answer(self, reply: Reply, _asked: Address, /) -> tuple[str, int]:
        if not reply:
            raise NoConnection(f"it knows no primary called {self._master_name}")
        return reply[0].decode(), int(reply[1])


class ByCluster(Asked):
    """The node that serves the slot of the prefix; all our keys are in that one."""

    must_tell_its_role = False  # a node that doesn't serve the slot says so itself

    def __init__(self, addresses: Sequence[Address], ask: Ask, patience: float, prefix: str) -> None:
        super().__init__(addresses, ask, patience)
        self._slot = key_slot(prefix.encode())

    def _question(self) -> tuple[str, ...]:
        return ("CLUSTER", "SLOTS")

    def _answer(self, reply: Reply, asked: Address, /) -> tuple[str, int]:
        for first, last, primary, *_ in reply:
            if first <= self._slot <= last:
                return (primary[0] or b"").decode() or asked.host, int(primary[1])
        raise NoConnection("it knows no node that serves the slot of the prefix")
