"""Renewal information: when a CA would like a certificate renewed (RFC 9773)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from josepy.json_util import encode_b64jose

from ssl_cert_server.acme.fields import object_of, optional_url, string_field
from ssl_cert_server.acme.text import one_line
from ssl_cert_server.errors import MalformedResponse
from ssl_cert_server.pki.authority_access import authority_key

_WHAT = "renewalInfo"
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(?:\.\d{1,30})?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII)
_MAX_URL = 500


@dataclass(frozen=True, slots=True)
class RenewalInfo:
    """The suggested window, in Unix seconds: renew at a random moment in it, at once where it has begun or passed.

    ``explanation_url`` is a page for people, ``retry_after`` (seconds) when the CA is to be asked again.
    """

    start: float
    end: float
    explanation_url: str | None = None
    retry_after: float | None = None

    @classmethod
    def parse(cls, value: object, *, retry_after: float | None = None) -> RenewalInfo:
        document = object_of(value, _WHAT)
        window = object_of(document.get("suggestedWindow"), f"{_WHAT}: suggestedWindow")
        start, end = _time_field(window, "start"), _time_field(window, "end")
        if end <= start:
            raise MalformedResponse(f"{_WHAT}: the window ends before it starts")
        url = optional_url(document, "explanationURL")
        return cls(
            start=start,
            end=end,
            explanation_url=url and one_line(url, _MAX_URL),
            retry_after=retry_after,
        )


def ari_id(chain_pem: bytes) -> str | None:
    """Give the name under which a CA knows a chain's leaf (section 4.1).

    None where the leaf doesn't name its issuer's key: there is nothing to ask for then.
    """
    leaf = x509.load_pem_x509_certificate(chain_pem)
    issuer_key = authority_key(leaf)
    if issuer_key is None:
        return None
    # DER's integers are signed: one whose first bit is set has a zero byte before it.
    serial = leaf.serial_number.to_bytes(leaf.serial_number.bit_length() // 8 + 1, "big", signed=True)
    return f"{encode_b64jose(issuer_key)}.{encode_b64jose(serial)}"


def _time_field(window: dict[str, object], name: str) -> float:
    text = string_field(window, name, f"{_WHAT}: suggestedWindow")
    try:
        if _TIME.fullmatch(text):
            return datetime.fromisoformat(text.upper()).timestamp()
    except ValueError:
        pass  # the form of a time, but of none there is
    raise MalformedResponse(f"{_WHAT}: suggestedWindow: field {name!r} is {one_line(text, 50)!r}, no RFC 3339 time")
