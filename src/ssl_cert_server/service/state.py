"""What is kept of a name beside its certificate: failures in a row, and orders that are still open."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import structlog

from ssl_cert_server.errors import BackingOff
from ssl_cert_server.model import OpenOrder
from ssl_cert_server.storage.base import Lease, Storage

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class NameState:
    """Times are Unix seconds; ``failed_at`` and ``error`` are of the last failure, in words that may be shown.

    ``troubles`` counts the failures, in a row, of which nobody knows whether they are the name's or its CA's.
    ``expected_at`` is when what only waits (for room in a budget, for a CA that is down) may go on; nothing that comes
    before then is refused for it.
    """

    failures: int = 0
    failed_at: float = 0.0
    retry_at: float = 0.0
    error: str = ""
    orders: tuple[OpenOrder, ...] = ()
    expected_at: float = 0.0
    troubles: int = 0


def check_not_backing_off(name: str, state: NameState, now: float) -> None:
    """Refuse a name that failed lately.

    :raises BackingOff: it isn't tried before ``retry_at``.
    """
    # A failure from the future was noted by a clock that ran ahead: its back-off could last for months.
    if state.failed_at <= now < state.retry_at:
        raise backing_off(name, state, now)


def backing_off(name: str, state: NameState, now: float) -> BackingOff:
    """Give the exception that tells of the last failure, and when the name is tried again."""
    count = f"failure {state.failures} in a row: " if state.failures else ""
    return BackingOff(f"{name}: {count}{state.error}", state.retry_at - now)


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
