"""Host names and IP addresses: one spelling for each, and nothing hostile past this point."""

from __future__ import annotations

import ipaddress
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


def normalize_identifier(raw: str) -> str:
    """Give the one spelling of a host name (see :func:`normalize_name`) or of an IP address.

    IPv6 addresses come out in RFC 5952 form, without the brackets they may have come in, and without a zone. One that
    stands for an IPv4 address (``::ffff:192.0.2.1``, as sockets of both families say) comes out as that.

    :raises InvalidName: with one line that is safe to show a stranger.
    """
    address = _address(raw[1:-1]) if raw.startswith("[") and raw.endswith("]") and ":" in raw else _address(raw)
    if address is None:
        return normalize_name(raw)
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            raise InvalidName("invalid IP address: zones are known to one machine only")
        return str(address.ipv4_mapped or address)
    return str(address)


def is_ip(name: str) -> bool:
    """Tell whether a name is an IP address."""
    return _address(name) is not None


def reverse_name(ip: str) -> str:
    """Give the name under which DNS looks an IP address up: ``1.2.0.192.in-addr.arpa`` (RFC 8738 section 6)."""
    return ipaddress.ip_address(ip).reverse_pointer


def is_loopback(host: str) -> bool:
    """Tell whether a URL's host is this very machine, whatever DNS says."""
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def covers(san: str, name: str) -> bool:
    """Tell whether a certificate's name covers another.

    A wildcard stands for one whole left-most label (RFC 6125 section 6.4.3); an IP address covers itself alone.
    """
    if san == name:
        return True
    return san.startswith("*.") and "." in name and san[2:] == name.partition(".")[2] and not is_ip(name)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _encode_idna(name: str) -> str:
    try:
        return to_ascii(name).removesuffix(".")
    except ValueError as error:
        raise InvalidName("invalid host name: not valid under IDNA (UTS 46)") from error
