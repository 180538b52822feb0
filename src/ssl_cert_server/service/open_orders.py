"""The orders of one name that may yet become a certificate: at most one at each CA."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from ssl_cert_server.model import OpenOrder


class OpenOrders:
    """Has ``save`` called with all of them before a new one is used, so that a crash forgets none."""

    def __init__(self, orders: Iterable[OpenOrder], save: Callable[[tuple[OpenOrder, ...]], Awaitable[None]]) -> None:
        self._orders = {order.directory_url: order for order in orders}
        self._save = save
        self.placed = False
        """Whether there was a new one."""

    @property
    def all(self) -> tuple[OpenOrder, ...]:
        """Those that are open now."""
        return tuple(self._orders.values())

    def at(self, directory_url: str) -> OpenOrder | None:
        """Give the one at a CA."""
        return self._orders.get(directory_url)

    async def keep(self, order: OpenOrder) -> None:
        """Add an order, in the place of an earlier one at the same CA.

        :raises StorageError: it can't be kept.
        """
        self.placed = True
        self._orders[order.directory_url] = order
        await self._save(self.all)

    def forget(self, directory_url: str) -> None:
        """Leave out the one at a CA, which is of no use any more; whatever is saved next says so."""
        self._orders.pop(directory_url, None)
