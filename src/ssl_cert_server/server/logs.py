"""Log lines: dotted event names with fields, on standard error, and never a private key or a token in one."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

_SECRET_FIELDS = frozenset({"key", "key_pem", "pkey", "private_key", "token", "key_authorization", "password"})
_PEM_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
# A token and a thumbprint, as 43 characters of base64url at the least each (RFC 8555 section 8.1).
_KEY_AUTHORIZATION = re.compile(r"(?<![A-Za-z0-9_-])[A-Za-z0-9_-]{20,}\.[A-Za-z0-9_-]{43}(?![A-Za-z0-9_-])")
_REDACTED = "[redacted]"


def set_up_logs() -> None:
    """Send structlog's and the standard library's records to standard error, one line each."""
    renderer: structlog.typing.Processor = structlog.dev.ConsoleRenderer(colors=True)
    if not sys.stderr.isatty():
        renderer = structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"], bool_as_flag=False)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            redact,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_ToStructlog()], level=logging.WARNING, force=True)


def redact(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Blank what looks like a secret, wherever it stands: the last line of defence, never the first."""
    for field, value in event.items():
        if field in _SECRET_FIELDS:
            event[field] = _REDACTED
        elif not isinstance(value, int | float | None):
            text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
            event[field] = _KEY_AUTHORIZATION.sub(_REDACTED, _PEM_KEY.sub(_REDACTED, text))
    return event


class _ToStructlog(logging.Handler):
    """Hands records of libraries (uvicorn, asyncio) to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        event = f"library.{record.name}"
        log = structlog.get_logger()
        log.log(record.levelno, event, message=record.getMessage(), exc_info=record.exc_info)
