"""Refusals as exceptions (RFC 8555 section 6.7)."""

from __future__ import annotations

import json

from ssl_cert_server.acme.messages import Problem
from ssl_cert_server.acme.text import one_line, without_secrets
from ssl_cert_server.errors import CaProblem

_MAX_FOREIGN = 200
"""Characters kept of a body that is no problem document: a proxy's HTML says little more than its status."""


def ca_problem(status: int, body: bytes, *, retry_after: float | None, everyone: bool = False) -> CaProblem:
    """Turn an answer with an error status into the exception to raise; see CaProblem for ``everyone``."""
    problem = _parse(body)
    message = one_line(f"HTTP {status}: {problem.describe()}")
    return CaProblem(message, type=problem.type, status=status, retry_after=retry_after, everyone=everyone)


def _parse(body: bytes) -> Problem:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict):
        return Problem.parse(document)
    text = without_secrets(body.decode("utf-8", "replace"))
    return Problem(type="about:blank", detail=one_line(" ".join(text.split()), _MAX_FOREIGN))
