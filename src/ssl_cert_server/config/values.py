"""What single values must look like. Every function gives the value to keep, or raises ValueError in plain words.

No message holds the value itself: a configuration may be pasted into a bug report, and its errors are.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import re2
from cryptography import x509

from ssl_cert_server.errors import InvalidName
from ssl_cert_server.files import read_regular
from ssl_cert_server.pki.names import is_loopback, normalize_identifier, normalize_name

MAX_CA_BUNDLE = 4 * 1024 * 1024
"""Bytes; the bundle of a whole operating system has a quarter of a megabyte."""

ACCOUNT_KEY = "acme_account+key"
CHALLENGE_LABEL = "_acme-challenge."
MAX_ORGANIZATION = 64
"""Bytes (RFC 5280, appendix A.1: ub-organization-name)."""

Rate = tuple[int, int]
"""So many in so many seconds."""

# Storage keeps top-level keys of this form; folders of its own start with an underscore.
_STORAGE_KEY = re.compile(r"(?![._])[!-.0-\[\]-~]{1,200}")
# Of what RFC 5322 allows, without that which has a meaning in a mailto: URL.
_MAIL_BOX = re.compile(r"[A-Za-z0-9.!$&'*+/=^_`{|}~-]{1,64}")

_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_RATE = re.compile(r"([0-9]{1,9})/([0-9]{1,9})([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_LONGEST_PERIOD = 366 * 86_400
_MOST = 10_000_000

_RE2_OPTIONS = re2.Options()
_RE2_OPTIONS.log_errors = False


def plain_text(value: str) -> str:
    """Refuse line breaks, control characters and what else can't be seen: it got there by accident or by malice."""
    if not value.isprintable():
        raise ValueError("holds a line break, a control character or another character that can't be seen")
    return value


def host_name(value: str) -> str:
    """Give a host name in the one spelling under which names are kept."""
    try:
        return normalize_name(value)
    except InvalidName as error:
        raise ValueError(str(error)) from error


def identifier(value: str) -> str:
    """Give a host name or IP address in the one spelling under which names are kept."""
    if value.startswith("*."):
        raise ValueError("wildcards stand in a list of their own: wildcards, at the top level")
    try:
        return normalize_identifier(value)
    except InvalidName as error:
        raise ValueError(str(error)) from error


def wildcard(value: str) -> str:
    """Give a wildcard in the one spelling under which it is kept."""
    apex = value.removeprefix("*.")
    if apex == value or "*" in apex:
        raise ValueError("must be *. and a host name, like *.example.com; names without a * stand in domains")
    name = host_name(apex)
    if "." not in name:
        raise ValueError("must have at least two labels after the *, as in *.example.com")
    return f"*.{name}"


def zone_name(value: str) -> str:
    """Give the name of a DNS zone; where the challenges' records are a zone of their own, ``_acme-challenge`` leads."""
    apex = value.removeprefix(CHALLENGE_LABEL)
    return host_name(apex) if apex == value else CHALLENGE_LABEL + host_name(apex)


def rate(value: object) -> Rate | None:
    """Parse a limit like ``300/3h``; ``off`` is none."""
    if value == "off":
        return None
    found = _RATE.fullmatch(value) if isinstance(value, str) else None
    if not found:
        raise ValueError("must be a number and a period in s, m, h or d, like 300/3h, or off")
    count, seconds = int(found[1]), int(found[2]) * _UNITS[found[3]]
    if not 0 < count <= _MOST or not 0 < seconds <= _LONGEST_PERIOD:
        raise ValueError(f"must be 1 to {_MOST} in a period of 1s to 366d")
    return count, seconds


def pattern(value: str) -> str:
    """Check that a pattern is RE2."""
    if not value:
        raise ValueError("must not be empty")
    try:
        re2.compile(value, _RE2_OPTIONS)
    except re2.error as error:
        reason = error.args[0].decode(errors="replace").partition(": ")[0]
        raise ValueError(f"not a valid RE2 pattern: {reason}") from error
    return value


def matches(pattern: str, name: str) -> bool:
    """Tell whether a pattern matches a whole name; one that is no pattern matches none."""
    try:
        return re2.fullmatch(pattern, name, _RE2_OPTIONS) is not None
    except (re2.error, UnicodeError):
        return False


def storage_key(value: str) -> str:
    """Check a key under which the operator keeps a certificate."""
    if not _STORAGE_KEY.fullmatch(value):
        raise ValueError(
            "must be 1 to 200 printable ASCII characters without spaces and slashes, "
            "and must not start with a dot or an underscore"
        )
    if value == ACCOUNT_KEY:
        raise ValueError("this is where the ACME account's key is kept; choose another")
    return value


def email(value: str) -> str:
    """Check that an address could be mailed to; empty is none."""
    box, at, domain = value.rpartition("@")
    if not value:
        return value
    try:
        if at and _MAIL_BOX.fullmatch(box) and "." in normalize_name(domain):
            return value
    except InvalidName:
        pass
    raise ValueError("must be a mail address like admin@example.com")


def directory_url(value: str) -> str:
    """Check the URL of an ACME directory: HTTPS, or HTTP to this very machine (a test CA)."""
    url = _http_url(value, "must be a URL like https://ca.example.com/directory")
    if url.scheme == "http" and not is_loopback(url.hostname or ""):
        raise ValueError("must start with https:// (http:// is accepted for a CA on this machine only)")
    return value


def ask_url(value: str) -> str:
    """Check the URL of the endpoint that is asked whether a name may be issued for."""
    _http_url(value, "must be a URL like http://127.0.0.1:5000/allowed")
    return value


def ca_bundle(value: Path) -> Path:
    """Check that a file holds certificates in PEM."""
    try:
        pem = read_regular(value, MAX_CA_BUNDLE)
    except OSError as error:
        raise ValueError(f"the file can't be read: {reason(error)}") from error
    try:
        x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise ValueError("the file must hold certificates in PEM") from error
    return value


def organization(value: str) -> str:
    """Check a name that goes into a certificate's subject."""
    if not 0 < len(value.encode()) <= MAX_ORGANIZATION:
        raise ValueError(f"must be 1 to {MAX_ORGANIZATION} bytes long")
    return value


def schema_name(value: str) -> str:
    """Check the name of a schema in PostgreSQL: one that needs no quotes, and isn't PostgreSQL's own."""
    if not _SCHEMA.fullmatch(value) or value.startswith("pg_"):
        raise ValueError("must be 1 to 63 small letters, digits and underscores, not starting with a digit or pg_")
    return value


def reason(error: OSError) -> str:
    """Give what the operating system said, without the path."""
    return (error.strerror or type(error).__name__).lower()


def _http_url(value: str, form: str) -> SplitResult:
    try:
        url = urlsplit(value)
        host, port = url.hostname, url.port
    except ValueError as error:
        raise ValueError(form) from error
    if not host or port == 0 or " " in value or url.scheme not in ("http", "https") or url.fragment:
        raise ValueError(form)
    if url.username is not None:
        raise ValueError("must not hold a user name or password")
    return url
