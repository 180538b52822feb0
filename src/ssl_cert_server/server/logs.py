"""Log lines: dotted event names with fields, on standard error, and never a private key or a token in one."""

from __future__ import annotations

import logging
import re
import string
import threading
from collections.abc import Callable, MutableMapping
from typing import Any

import structlog

_SECRET_FIELDS = frozenset({"key", "key_pem", "pkey", "private_key", "token", "key_authorization", "password"})
_PEM_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
# A token and a thumbprint, as 43 characters of base64url at the least each (RFC 8555 section 8.1).
_KEY_AUTHORIZATION = re.compile(r"(?<![A-Za-z0-9_-])[A-Za-z0-9_-]{20,}\.[A-Za-z0-9_-]{43}(?![A-Za-z0-9_-])")
_KEY_AUTHORIZATION_CHARACTERS = string.ascii_letters + string.digits + "_-."
_REDACTED = "[redacted]"

_SEARCHED = 256 * 1024
"""Characters of a value that are searched for secrets; what follows is left out."""

_SHOWN = 16 * 1024
"""Characters of a value that are shown: its beginning and, for tracebacks, its end."""

_log = structlog.get_logger()


def set_up_logs(write: Callable[[str], object], *, colors: bool) -> None:
    """Hand structlog's and the standard library's records to ``write``, one line each with its newline.

    No log call raises, as long as ``write`` doesn't.
    """
    structlog.configure(
        processors=[_Rendering(colors=colors)],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *_: _LineLogger(write),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_ToStructlog()], level=logging.WARNING, force=True)
    threading.excepthook = _log_thread_crash


def redact(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Blank what looks like a secret, wherever it stands: the last line of defence, never the first."""
    for field, value in event.items():
        if field in _SECRET_FIELDS:
            event[field] = _REDACTED
        elif not isinstance(value, int | float | None):
            text = _without_partial_secret(_text(value))
            event[field] = _shortened(_KEY_AUTHORIZATION.sub(_REDACTED, _PEM_KEY.sub(_REDACTED, text)))
    return event


def _text(value: object) -> str:
    try:
        return value.decode("latin-1") if isinstance(value, bytes) else str(value)
    except Exception as error:  # noqa: BLE001 - whatever a value's own code raises, the line is written
        return f"<{type(value).__name__} that can't be shown: {type(error).__name__}>"


def _without_partial_secret(text: str) -> str:
    """Cut a very long text where no key authorization is cut in two, which would not be found; a cut key is."""
    return text if len(text) <= _SEARCHED else text[:_SEARCHED].rstrip(_KEY_AUTHORIZATION_CHARACTERS)


def _shortened(text: str) -> str:
    if len(text) <= _SHOWN:
        return text
    half = _SHOWN // 2
    return f"{text[:half]} [{len(text) - 2 * half} characters left out] {text[-half:]}"


class _Rendering:
    """structlog's only processor: makes a line of an event, whatever its fields hold."""

    def __init__(self, *, colors: bool) -> None:
        logfmt = structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"], bool_as_flag=False)
        console = structlog.dev.ConsoleRenderer(colors=True)
        self._steps: tuple[structlog.typing.Processor, ...] = (
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            redact,
            console if colors else logfmt,
        )

    def __call__(self, logger: object, method: str, event: structlog.typing.EventDict) -> str:
        name = str(event.get("event"))
        try:
            return self._render(logger, method, event)
        except Exception as error:  # noqa: BLE001 - no log call may raise
            return self._render(logger, method, {"event": name, "unrenderable": type(error).__name__})

    def _render(self, logger: object, method: str, event: structlog.typing.EventDict) -> str:
        rendered: Any = event
        for step in self._steps:
            rendered = step(logger, method, rendered)
        return str(rendered)


class _LineLogger:
    """Logger for structlog that passes rendered lines to ``write``."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write

    def msg(self, line: str) -> None:
        self._write(f"{line}\n")

    debug = info = warning = error = critical = msg


class _ToStructlog(logging.Handler):
    """Hands records of libraries (uvicorn, asyncio) to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        event = f"library.{record.name}"
        log = structlog.get_logger()
        log.log(_standard_level(record.levelno), event, message=_message(record), exc_info=record.exc_info)


def _standard_level(level: int) -> int:
    """Return the level that structlog has a name for; libraries may have levels of their own in between."""
    return max(logging.DEBUG, min(level // 10 * 10, logging.CRITICAL))


def _message(record: logging.LogRecord) -> object:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - the arguments don't fit the text, or can't be shown
        return record.msg


def _log_thread_crash(crash: threading.ExceptHookArgs) -> None:
    if crash.exc_value is not None:
        _log.error("thread.crashed", thread=getattr(crash.thread, "name", None), exc_info=crash.exc_value)
