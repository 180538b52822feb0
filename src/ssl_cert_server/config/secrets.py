"""Secrets: written in the file, or better in a file or an environment variable of their own.

Each function gives the secret, or raises ValueError in words that hold nothing of it.
"""

from __future__ import annotations

import base64
import os
import re
from pathlib import Path

from pydantic import SecretStr

from ssl_cert_server.config.values import plain_text, reason
from ssl_cert_server.files import read_regular

MAX_SECRET = 4096
"""Bytes; an HMAC key has a hundred."""

# Both hold 32 bytes.
_HEX = re.compile(r"[0-9A-Fa-f]{64}")
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{43}|[A-Za-z0-9_-]{43})=?")
_CREDENTIAL = re.compile(r"[A-Za-z0-9._-]{1,255}")
_BASE64URL = re.compile(r"(?:[A-Za-z0-9_-]{4})*(?:[A-Za-z0-9_-]{2}(?:==)?|[A-Za-z0-9_-]{3}=?)?")


def inline(value: object) -> SecretStr:
    """Take a secret as it stands."""
    return SecretStr(plain_text(_text(value)))


def from_file(value: object) -> SecretStr:
    """Read a secret from a file; line breaks at its end are no part of it."""
    path = Path(plain_text(_text(value)))
    try:
        content = read_regular(path, MAX_SECRET)
    except OSError as error:
        raise ValueError(f"the file can't be read: {reason(error)}") from error
    if len(content) > MAX_SECRET:
        raise ValueError("the file is larger than 4 KiB, which no secret is")
    try:
        text = content.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise ValueError("the file is not UTF-8 text") from error
    if not text:
        raise ValueError("the file is empty")
    return SecretStr(text)


def from_environment(value: object) -> SecretStr:
    """Read a secret from an environment variable."""
    try:
        text = os.environ.get(plain_text(_text(value)))
    except ValueError as error:
        raise ValueError("must be the name of an environment variable") from error
    if not text:
        raise ValueError("the environment variable is not set, or empty")
    return SecretStr(plain_text(text))


def from_credential(value: object) -> SecretStr:
    """Read a secret from the service's credentials, as systemd hands them over (``LoadCredential=``)."""
    name, folder = plain_text(_text(value)), os.environ.get("CREDENTIALS_DIRECTORY")
    if not _CREDENTIAL.fullmatch(name) or name in (".", ".."):
        raise ValueError("must be the name of a credential: letters, digits, dots, - and _")
    if not folder:
        raise ValueError("there are no credentials: CREDENTIALS_DIRECTORY is not set, as systemd does for a service")
    return from_file(f"{folder}/{name}")


def seal_key(secret: SecretStr) -> SecretStr:
    """Check that a secret is a key that values can be sealed with."""
    seal_key_bytes(secret.get_secret_value())
    return secret


def seal_key_bytes(text: str) -> bytes:
    """Read a key of 32 bytes, as ``storage new-key`` prints it, or in hex."""
    text = text.strip()
    if _HEX.fullmatch(text):
        return bytes.fromhex(text)
    if _BASE64.fullmatch(text):
        return base64.urlsafe_b64decode(text.rstrip("=").replace("+", "-").replace("/", "_") + "=")
    raise ValueError("must hold 32 bytes in base64 or hex, as `ssl-cert-server storage new-key` prints them")


def base64url(secret: SecretStr) -> SecretStr:
    """Check that a secret is base64url, padded or not (RFC 4648 section 5)."""
    if not _BASE64URL.fullmatch(secret.get_secret_value()):
        raise ValueError("must be base64url, as the CA gave it: letters, digits, - and _")
    return secret


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be text, not a list or a section")
    return value
