"""Sealing one value: AES-256-GCM, bound to the storage key that it is kept under. Pure, but for the nonce.

A sealed value is :data:`MAGIC`, a version, a form, the sealing key's id, a random nonce, and the encrypted value with
its tag. Everything before the nonce and the storage key are authenticated with it, so that no value can be moved to
another storage key. Nonces are random 96 bits: at 100 writes a second, a key is good for a year (2^32 values).
"""

from __future__ import annotations

import enum
import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ssl_cert_server.errors import NotOpened

KEY_BYTES = 32
MAGIC = b"\x93scs"
"""Neither PEM, JSON nor UTF-8 text starts with it."""

_VERSION = b"\x01"
_ID_BYTES = 8
_NONCE_BYTES = 12
_TAG_BYTES = 16
_ID_AT = len(MAGIC) + 2
_NONCE_AT = _ID_AT + _ID_BYTES
_TEXT_AT = _NONCE_AT + _NONCE_BYTES
OVERHEAD = _TEXT_AT + _TAG_BYTES
"""Bytes that sealing adds."""


class Form(enum.Enum):
    """Whether a sealed value is kept whole, or goes on under a key of its own."""

    WHOLE = b"\x00"
    SPLIT = b"\x01"


@dataclass(frozen=True, slots=True)
class SealKey:
    """A key of 32 bytes. Its ``id`` tells keys apart, and nothing of them."""

    secret: bytes = field(repr=False)
    id: bytes = field(init=False)

    def __post_init__(self) -> None:
        if len(self.secret) != KEY_BYTES:
            raise ValueError(f"a sealing key has {KEY_BYTES} bytes")
        digest = hashlib.sha256(b"ssl-cert-server seal key id" + self.secret).digest()
        object.__setattr__(self, "id", digest[:_ID_BYTES])


class Sealer:
    """Seals with the first of several keys, and opens with whichever it was. Without any, it opens nothing sealed."""

    def __init__(self, keys: Iterable[SealKey] = (), *, seal: bool = True) -> None:
        """With ``seal`` off, values are written unsealed though there are keys."""
        self._keys = tuple(keys)
        self._ciphers = {key.id: AESGCM(key.secret) for key in self._keys}
        self.seals = seal and bool(self._keys)

    def seal(self, key: str, value: bytes, form: Form = Form.WHOLE) -> bytes:
        """Seal a value that is kept under the storage key ``key``; there must be a key to seal with."""
        first = self._keys[0]
        header = MAGIC + _VERSION + form.value + first.id
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return header + nonce + self._ciphers[first.id].encrypt(nonce, value, header + key.encode())

    def open(self, key: str, sealed: bytes) -> bytes:
        """Open what :meth:`seal` gave for the same storage key.

        :raises NotOpened: by a key that isn't known here, damaged, or moved from another storage key.
        """
        header, nonce = sealed[:_NONCE_AT], sealed[_NONCE_AT:_TEXT_AT]
        if header[len(MAGIC) : _ID_AT] not in (_VERSION + form.value for form in Form):
            raise NotOpened(f"can't open {key}: it was sealed by a later version of the server, or is damaged")
        cipher = self._ciphers.get(header[_ID_AT:])
        if cipher is None:
            raise NotOpened(
                f"can't open {key}: it is sealed with the key {header[_ID_AT:].hex()}, which is not one of "
                "storage.seal.keys; list that key, too"
            )
        try:
            return cipher.decrypt(nonce, sealed[_TEXT_AT:], header + key.encode())
        except (InvalidTag, ValueError) as error:  # ValueError: shorter than a nonce and a tag
            raise NotOpened(
                f"can't open {key}: what is stored there is damaged, or was sealed for another key; "
                "restore it from a backup, or remove it"
            ) from error

    def is_current(self, stored: bytes) -> bool:
        """Tell whether a value is kept as it would be written now: sealed with the first key, or unsealed."""
        if not self.seals:
            return not is_sealed(stored)
        return is_sealed(stored) and stored[_ID_AT:_NONCE_AT] == self._keys[0].id


def is_sealed(stored: bytes) -> bool:
    """Tell whether a value is sealed."""
    return stored.startswith(MAGIC)


def form_of(sealed: bytes) -> Form:
    """Give the form of a sealed value."""
    return Form.SPLIT if sealed[_ID_AT - 1 : _ID_AT] == Form.SPLIT.value else Form.WHOLE


def nonce_of(sealed: bytes) -> bytes:
    """Give the nonce, which no two values share."""
    return sealed[_NONCE_AT:_TEXT_AT]
