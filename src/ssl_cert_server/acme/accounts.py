"""What is said of accounts: external account binding, another key, the end (RFC 8555 sections 7.3 to 7.3.6)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from josepy.errors import DeserializationError
from josepy.json_util import decode_b64jose

from ssl_cert_server.acme.directory import Directory
from ssl_cert_server.acme.jose import AccountKey, sign_by_hmac
from ssl_cert_server.errors import CaProblem, StartError

_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class ExternalAccount:
    """What a CA gives its customers, so that their ACME account is put down to them.

    ``hmac_key`` is base64url, padded or not.
    """

    kid: str
    hmac_key: str = field(repr=False)

    def __post_init__(self) -> None:
        """:raises StartError: the HMAC key is not base64url, or empty."""
        if not self.secret():
            raise StartError(f"the HMAC key of the external account {self.kid} is not base64url; copy it from the CA")

    def secret(self) -> bytes:
        """Give the HMAC key's bytes, none where it is not base64url."""
        text = self.hmac_key.rstrip("=")
        try:
            # The decoder passes over whatever isn't of the alphabet.
            return decode_b64jose(text) if _BASE64URL.fullmatch(text) else b""
        except DeserializationError:
            return b""


def new_account(
    directory_url: str, directory: Directory, key: AccountKey, contact: tuple[str, ...], eab: ExternalAccount | None
) -> bytes:
    """Make newAccount's payload (section 7.3).

    :raises CaProblem: the CA wants an external account, and there is none.
    """
    payload: dict[str, Any] = {"termsOfServiceAgreed": True}
    if contact:
        payload["contact"] = list(contact)
    if eab is not None:
        payload["externalAccountBinding"] = _binding(directory.new_account, key, eab)
    elif directory.external_account_required:
        raise CaProblem(
            f"{directory_url}: this CA gives accounts to its own customers only: set the key id and the HMAC key that "
            "it gave you (external account binding)",
            type="externalAccountRequired",
            status=403,
        )
    return json.dumps(payload).encode()


def existing_account() -> bytes:
    """Make newAccount's payload that only looks an account up (section 7.3.1)."""
    return json.dumps({"onlyReturnExisting": True}).encode()


def deactivation() -> bytes:
    """Make the payload that ends an account for good (section 7.3.6)."""
    return json.dumps({"status": "deactivated"}).encode()


def key_change(key_change_url: str, account_url: str, old: AccountKey, new: AccountKey) -> bytes:
    """Make keyChange's payload: signed by the new key, to be signed by the old one as a whole (section 7.3.5)."""
    inner = json.dumps({"account": account_url, "oldKey": old.public_jwk()}).encode()
    return new.sign(inner, url=key_change_url, nonce=None, kid=None)


def _binding(url: str, key: AccountKey, eab: ExternalAccount) -> dict[str, str]:
    return sign_by_hmac(json.dumps(key.public_jwk()).encode(), eab.secret(), kid=eab.kid, url=url)
