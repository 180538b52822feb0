"""What a CA counts a name under: its registered domain, or its part of the address space."""

from __future__ import annotations

import ipaddress
from functools import cache

from publicsuffixlist import PublicSuffixList

from ssl_cert_server.pki.names import is_ip

_IPV6_PREFIX = 64


def registered_domain(name: str) -> str:
    """Give the domain right below the public suffix (``example.co.uk``), an IPv4 address itself, or an IPv6 /64.

    A name that is a public suffix itself counts as its own. Private suffixes (``github.io``) count as public ones, as
    they do at Let's Encrypt.
    """
    if is_ip(name):
        return _part_of_address_space(name)
    name = name.removeprefix("*.")
    return _suffixes().privatesuffix(name) or name


def _part_of_address_space(ip: str) -> str:
    address = ipaddress.ip_address(ip)
    if address.version == 4:
        return ip
    return str(ipaddress.ip_network((address, _IPV6_PREFIX), strict=False))


@cache
def _suffixes() -> PublicSuffixList:
    """Read the list once, when it is first needed; it comes with the package and is never downloaded."""
    return PublicSuffixList()
