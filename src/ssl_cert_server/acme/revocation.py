"""Revoking a certificate (RFC 8555 section 7.6)."""

from __future__ import annotations

import enum
import json
from typing import Any

from josepy.json_util import encode_b64jose


class RevocationReason(enum.IntEnum):
    """Why a certificate is revoked (RFC 5280 section 5.3.1). CAs take some of these from subscribers, not all."""

    UNSPECIFIED = 0
    KEY_COMPROMISE = 1
    CA_COMPROMISE = 2
    AFFILIATION_CHANGED = 3
    SUPERSEDED = 4
    CESSATION_OF_OPERATION = 5
    CERTIFICATE_HOLD = 6
    REMOVE_FROM_CRL = 8
    PRIVILEGE_WITHDRAWN = 9
    AA_COMPROMISE = 10


def revocation(certificate_der: bytes, reason: int | None) -> bytes:
    """Make revokeCert's payload; without a reason the CA puts none into its list."""
    payload: dict[str, Any] = {"certificate": encode_b64jose(certificate_der)}
    if reason is not None:
        payload["reason"] = RevocationReason(reason).value
    return json.dumps(payload).encode()
