"""What is kept of a name beside its certificate: failures in a row, and orders that are still open."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import structlog

from ssl_cert_server.errors import BackingOff
from ssl_cert_server.model import OpenOrder
from ssl_cert_server.service.backoff import retry_at
from ssl_cert_server.storage.base import Lease, Storage

_log = structlog.get_logger()

HELD_FOR = 45.0
"""Seconds within which an instance stores a state that it holds in memory, once storage works again."""

_CLOCKS_DIFFER = 300.0
"""Seconds by which the clocks of instances may differ: a failure noted by a clock that is ahead still backs off."""

_INTERRUPTED_STEPS = 2
"""A crash between an order and its record is no fault of the name's, and does not send it into the longest back-off."""


@dataclass(frozen=True, slots=True)
class NameState:
    """Times are Unix seconds; ``failed_at`` and ``error`` are of the last failure, in words that may be shown.

    ``troubles`` counts the failures, in a row, of which nobody knows whether they are the name's or its CA's.
    ``expected_at`` is when what only waits (for room in a budget, for a CA that is down) may go on; nothing that comes
    before then is refused for it. ``placing_at`` is when an order was about to be placed; it is 0 once the CA's answer
    is stored, so that a crash in between is seen by whoever holds the lease next.
    """

    failures: int = 0
    failed_at: float = 0.0
    retry_at: float = 0.0
    error: str = ""
    orders: tuple[OpenOrder, ...] = ()
    expected_at: float = 0.0
    troubles: int = 0
    placing_at: float = 0.0


def check_not_backing_off(name: str, state: NameState, now: float) -> None:
    """Refuse a name that failed lately.

    :raises BackingOff: it isn't tried before ``retry_at``.
    """
    if is_backing_off(state, now):
        raise backing_off(name, state, now)


def is_backing_off(state: NameState, now: float) -> bool:
    """Return whether a name that failed is not tried again yet."""
    # A failure from further ahead was noted by a clock that was wrong: its back-off could last for months.
    return state.failed_at - now <= _CLOCKS_DIFFER and now < state.retry_at


def backing_off(name: str, state: NameState, now: float) -> BackingOff:
    """Give the exception that tells of the last failure, and when the name is tried again."""
    count = f"failure {state.failures} in a row: " if state.failures else ""
    suspect = state.failures > 0 or state.troubles > 0
    return BackingOff(f"{name}: {count}{state.error}", state.retry_at - now, suspect=suspect)


def settle_interrupted(state: NameState, now: float) -> NameState:
    """Return the state of a name whose order was being placed when its server died or lost its storage.

    Only the holder of the name's lease may draw this conclusion: anybody else sees an order that is just being placed.
    Whether there is an order at the CA is unknown, so the name backs off before another one is placed. The back-off
    lasts at least :data:`HELD_FOR` from now, however long ago the order was placed: storage may only just work again,
    and a peer may hold the order in memory. It is to be stored, so that it ends.
    """
    if not state.placing_at:
        return state
    troubles = state.troubles + 1
    steps = min(state.failures + troubles, _INTERRUPTED_STEPS)
    placing_at = min(state.placing_at, now)  # another machine's clock may be ahead of this one's
    return replace(
        state,
        troubles=troubles,
        failed_at=placing_at,
        retry_at=max(state.retry_at, retry_at(steps, placing_at, 0.0, None), now + HELD_FOR),
        error="the server stopped, or lost its storage, while it placed an order; the CA's answer is not known",
        placing_at=0.0,
    )


async def load_state(storage: Storage, cert_key: str) -> NameState:
    """Read what is kept beside a certificate; a state that can't be parsed counts as nothing kept.

    :raises StorageError: it can't be read.
    """
    stored = await storage.get(_key(cert_key))
    if stored is None:
        return NameState()
    try:
        return _parse(stored)
    except (ValueError, TypeError, KeyError, AttributeError):
        # Not `key=`: what stands under that word is blanked in the log.
        _log.warning(
            "state.unreadable", cert_key=cert_key, state_key=_key(cert_key), remedy="it is ignored and written anew"
        )
        return NameState()


async def save_state(storage: Storage, cert_key: str, state: NameState, lease: Lease) -> None:
    """Write what is kept beside a certificate; a state with nothing in it is removed.

    :raises StorageError: it can't be written.
    """
    if state == NameState():
        await storage.delete(_key(cert_key), lease=lease)
    else:
        await storage.put(_key(cert_key), json.dumps(asdict(state)).encode(), lease=lease)


def _parse(stored: bytes) -> NameState:
    fields = json.loads(stored)
    # Before there could be several, there was one or none.
    orders = fields["orders"] if "orders" in fields else filter(None, [fields["order"]])
    return NameState(
        failures=int(fields["failures"]),
        failed_at=float(fields.get("failed_at", 0.0)),
        retry_at=float(fields["retry_at"]),
        error=str(fields["error"]),
        orders=tuple(map(_order, orders)),
        expected_at=float(fields.get("expected_at", 0.0)),
        troubles=int(fields.get("troubles", 0)),
        placing_at=float(fields.get("placing_at", 0.0)),
    )


def _order(fields: Mapping[str, object]) -> OpenOrder:
    return OpenOrder(
        directory_url=str(fields["directory_url"]),
        order_url=str(fields["order_url"]),
        key_pem=str(fields["key_pem"]),
        placed_at=float(str(fields.get("placed_at", 0.0))),
    )


def _key(cert_key: str) -> str:
    return f"_state/{cert_key}"
