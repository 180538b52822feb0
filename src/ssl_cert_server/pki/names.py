"""Host names: one spelling for each, and nothing hostile past this point."""

from __future__ import annotations

import re

from ssl_cert_server.errors import InvalidName
from ssl_cert_server.pki.unicode_names import to_ascii

MAX_NAME = 253
"""Characters in a host name without the trailing dot (RFC 1035 section 2.3.4)."""

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_LDH_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
# A last label that a URL parser reads as a number makes the whole name an IPv4 address.
_NUMERIC_TLD = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")


def normalize_name(raw: str) -> str:
    """Give the one spelling under which a host name is kept: lower case, A-labels, no trailing dot.

    IDNA is UTS 46, non-transitional, as the predecessor's clients expect. Wildcards, IP literals and underscores are
    refused.

    :raises InvalidName: with one line that is safe to show a stranger.
    """
    if len(raw) > MAX_NAME + 1:
        raise InvalidName("invalid host name: longer than 253 characters")
    name = raw.removesuffix(".").lower()
    if not name.isascii() or "xn--" in name:
        name = _encode_idna(name)
    if not name:
        raise InvalidName("invalid host name: empty")
    if len(name) > MAX_NAME:
        raise InvalidName("invalid host name: longer than 253 characters")
    if not _LDH_NAME.fullmatch(name):
        raise InvalidName("invalid host name: labels are 1 to 63 letters, digits and inner hyphens")
    if _NUMERIC_TLD.fullmatch(name):
        raise InvalidName("invalid host name: IP addresses are not answered for")
    return name


def covers(san: str, name: str) -> bool:
    """Tell whether a certificate's DNS name covers a host name (RFC 6125 section 6.4.3: one whole left-most label)."""
    if san == name:
        return True
    return san.startswith("*.") and "." in name and san[2:] == name.partition(".")[2]


def _encode_idna(name: str) -> str:
    try:
        return to_ascii(name).removesuffix(".")
    except ValueError as error:
        raise InvalidName("invalid host name: not valid under IDNA (UTS 46)") from error
