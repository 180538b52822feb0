"""The names in a certificate or CSR: the subject's alternative names (RFC 5280 section 4.2.1.6)."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from cryptography import x509

from ssl_cert_server.pki.names import is_ip


def to_extension(names: Sequence[str]) -> x509.SubjectAlternativeName:
    """Make the extension that holds DNS names, wildcards among them, and IP addresses."""
    return x509.SubjectAlternativeName([_general_name(name) for name in names])


def names_of(extensions: x509.Extensions) -> frozenset[str]:
    """Give the DNS names in lower case and the IP addresses in RFC 5952 form; what else there is says nothing to us.

    An IP address that stands there as a DNS name is left out: no client takes it for the address.
    """
    try:
        extension = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return frozenset()
    hosts = {name.lower() for name in extension.get_values_for_type(x509.DNSName)}
    addresses = {str(address) for address in extension.get_values_for_type(x509.IPAddress)}
    return frozenset({host for host in hosts if not is_ip(host)} | addresses)


def _general_name(name: str) -> x509.GeneralName:
    return x509.IPAddress(ipaddress.ip_address(name)) if is_ip(name) else x509.DNSName(name)
