"""A CA's directory (RFC 8555 section 7.1.1), with what later standards and drafts put there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ssl_cert_server.acme.fields import object_of, optional_list, optional_text, optional_url, url_field


@dataclass(frozen=True, slots=True)
class Directory:
    """Where a CA's resources are, and what it says of itself (section 7.1.1).

    ``renewal_info`` is there where the CA knows RFC 9773; ``profiles`` maps the names of its certificate profiles to
    what it says about each; ``caa_identities`` are the domain names by which CAA records may permit it.
    """

    new_nonce: str
    new_account: str
    new_order: str
    external_account_required: bool = False
    revoke_cert: str | None = None
    key_change: str | None = None
    renewal_info: str | None = None
    profiles: Mapping[str, str] = field(default_factory=dict)
    caa_identities: tuple[str, ...] = ()

    @classmethod
    def parse(cls, value: object) -> Directory:
        document = object_of(value, "directory")
        meta = document.get("meta")
        meta = meta if isinstance(meta, dict) else {}
        identities = optional_list(meta.get("caaIdentities"))
        return cls(
            new_nonce=url_field(document, "newNonce", "directory"),
            new_account=url_field(document, "newAccount", "directory"),
            new_order=url_field(document, "newOrder", "directory"),
            external_account_required=meta.get("externalAccountRequired") is True,
            revoke_cert=optional_url(document, "revokeCert"),
            key_change=optional_url(document, "keyChange"),
            renewal_info=optional_url(document, "renewalInfo"),
            profiles=_profiles(meta.get("profiles")),
            caa_identities=tuple(identity for identity in identities if isinstance(identity, str)),
        )


def _profiles(value: object) -> Mapping[str, str]:
    profiles = value if isinstance(value, dict) else {}
    return {name: optional_text(profiles, name) for name in profiles}
