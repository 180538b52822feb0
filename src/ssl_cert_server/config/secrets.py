"""Secrets: written in the file, or better in a file or an environment variable of their own.

Each function gives the secret, or raises ValueError in words that hold nothing of it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from pydantic import SecretStr

from ssl_cert_server.config.values import plain_text, read_bounded, reason

MAX_SECRET = 4096
"""Bytes; an HMAC key has a hundred."""

_BASE64URL = re.compile(r"(?:[A-Za-z0-9_-]{4})*(?:[A-Za-z0-9_-]{2}(?:==)?|[A-Za-z0-9_-]{3}=?)?")


def inline(value: object) -> SecretStr:
    """Take a secret as it stands."""
    return SecretStr(plain_text(_text(value)))


def from_file(value: object) -> SecretStr:
    """Read a secret from a file; line breaks at its end are no part of it."""
    path = Path(plain_text(_text(value)))
    try:
        content = read_bounded(path, MAX_SECRET)
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


def base64url(secret: SecretStr) -> SecretStr:
    """Check that a secret is base64url, padded or not (RFC 4648 section 5)."""
    if not _BASE64URL.fullmatch(secret.get_secret_value()):
        raise ValueError("must be base64url, as the CA gave it: letters, digits, - and _")
    return secret


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be text, not a list or a section")
    return value
