"""What a certificate says of its issuer: its key, and where it can be asked or had (RFC 5280, 4.2.1.1 and 4.2.2.1)."""

from __future__ import annotations

import re

from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID

_URL = re.compile(r"https?://[!-~]{1,2040}", re.IGNORECASE)


def authority_key(certificate: x509.Certificate) -> bytes | None:
    """Give the identifier of the issuer's key, or None where it isn't told."""
    try:
        return certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except (x509.ExtensionNotFound, ValueError):
        return None


def ocsp_urls(certificate: x509.Certificate) -> tuple[str, ...]:
    """Give the URLs of the responders that know about a certificate."""
    return _urls(certificate, AuthorityInformationAccessOID.OCSP)


def issuer_urls(certificate: x509.Certificate) -> tuple[str, ...]:
    """Give the URLs at which the issuer's certificate can be had."""
    return _urls(certificate, AuthorityInformationAccessOID.CA_ISSUERS)


def _urls(certificate: x509.Certificate, method: x509.ObjectIdentifier) -> tuple[str, ...]:
    try:
        descriptions = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
        uris = [
            description.access_location.value
            for description in descriptions
            if description.access_method == method
            and isinstance(description.access_location, x509.UniformResourceIdentifier)
        ]
    except (x509.ExtensionNotFound, ValueError):
        return ()
    return tuple(uri for uri in uris if _URL.fullmatch(uri))
