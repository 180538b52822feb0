"""Changes of the budget that follow from a CA's answer."""

from __future__ import annotations

from collections.abc import Awaitable

import structlog

from ssl_cert_server.errors import Overloaded, StorageError

_log = structlog.get_logger()


async def is_stored(change: Awaitable[None], name: str) -> bool:
    """Await a change of the budget after an order for ``name``; log why it can't be stored, and return whether it was.

    Storage's failure must not take the place of the CA's answer: the name would back off for a minute time after time,
    instead of longer each time.
    """
    try:
        await change
    except (StorageError, Overloaded) as error:
        _log.warning("budget.not_stored", name=name, reason=str(error))
        return False
    return True
