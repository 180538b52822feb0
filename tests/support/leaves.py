"""Certificates for tests: real ones, that parse and belong to their keys."""

from __future__ import annotations

from ssl_cert_server.model import Certificate
from ssl_cert_server.pki.signing import Validity, self_sign
from tests.support.clock import START

HOUR = 3600.0
DAY = 24 * HOUR


def make_certificate(*names: str, start: float = START - HOUR, end: float = START + 90 * DAY) -> Certificate:
    """Make a self-signed certificate for ``names``, valid from ``start`` to ``end`` (Unix seconds)."""
    return self_sign(["Test"], names, Validity(int(start), int(end)))
