"""The orders of one name that may yet become a certificate: at most one at each CA."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from ssl_cert_server.model import OpenOrder


class OrderRecords(Protocol):
    """Where the orders of one name are stored."""

    async def announce_order(self, orders: tuple[OpenOrder, ...]) -> None:
        """Store that an order is about to be placed, beside those that are open.

        :raises StorageError: that can't be stored, so that no order may be placed.
        """

    def check_lease(self) -> None:
        """Check that no other instance may be placing orders for the name.

        :raises LeaseLost: one may.
        """

    async def save_orders(self, orders: tuple[OpenOrder, ...]) -> None:
        """Store the open orders.

        :raises StorageError: they can't be stored now; they are held in memory.
        """


class OpenOrders:
    """The open orders of one name. Each new order is announced in storage before it is placed."""

    def __init__(self, orders: Iterable[OpenOrder], records: OrderRecords) -> None:
        self._orders = {order.directory_url: order for order in orders}
        self._records = records
        self.begun = 0
        """New orders that were, or are about to be, sent to a CA, whatever came of them."""
        self.placed = 0
        """New orders that were placed."""

    @property
    def all(self) -> tuple[OpenOrder, ...]:
        """Those that are open now."""
        return tuple(self._orders.values())

    def at(self, directory_url: str) -> OpenOrder | None:
        """Return the order at a CA, or None."""
        return self._orders.get(directory_url)

    async def begin(self) -> None:
        """Store that a new order is about to be placed; to be awaited before the CA is asked.

        :raises StorageError: that can't be stored, so that no order may be placed.
        """
        await self._records.announce_order(self.all)
        self.begun += 1

    def check(self) -> None:
        """Check that a new order may still be placed; to be called right before the request is sent.

        :raises LeaseLost: another instance may be placing one.
        """
        self._records.check_lease()

    async def keep(self, order: OpenOrder) -> None:
        """Add an order, in the place of an earlier one at the same CA.

        :raises StorageError: it can't be stored now; it is held in memory.
        """
        self.placed += 1
        self._orders[order.directory_url] = order
        await self._records.save_orders(self.all)

    def forget(self, directory_url: str) -> None:
        """Remove the order at a CA; the next save removes it from storage, too."""
        self._orders.pop(directory_url, None)
