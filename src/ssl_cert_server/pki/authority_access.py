"""Where a certificate says its issuer can be asked or had: authority information access (RFC 5280 section 4.2.2.1)."""

from __future__ import annotations

import re

from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID

_URL = re.compile(r"https?://[!-~]{1,2040}", re.IGNORECASE)


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
