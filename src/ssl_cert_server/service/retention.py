"""Decides which of two certificates under one key is right: the one in storage, or one that an instance still holds.

Pure: a storage that was restored from a backup or lost its last writes must not take valid certificates away.
"""

from __future__ import annotations

import enum
from collections.abc import Container, Iterable

from ssl_cert_server.model import Certificate


class Action(enum.Enum):
    """What to do about a key."""

    KEEP = "keep"
    """Storage has the right value, or there is none to put in its place."""

    RESTORE = "restore"
    """Write the held certificate back."""

    REMOVE = "remove"
    """Delete the stored certificate: it was removed on purpose before the storage went back."""


def newest(certificates: Iterable[Certificate | None], *, removed: Container[str], now: float) -> Certificate | None:
    """Return the one that was issued last; expired and removed ones don't count."""
    usable = [each for each in certificates if each and now < each.not_after and each.fingerprint not in removed]
    return max(usable, key=lambda each: each.not_before, default=None)


def decide(
    held: Certificate | None,
    stored: Certificate | None,
    *,
    removed: Container[str],
    now: float,
    predecessor: str = "",
    stored_is_right: bool = False,
) -> Action:
    """Compare the certificate that an instance holds with the stored one; None stands for a missing one.

    ``removed`` are the fingerprints of certificates that were removed or revoked. ``predecessor`` is the fingerprint
    of the certificate that the stored one replaced, where that is known: CAs backdate notBefore by different times.
    ``stored_is_right`` is for keys that operators write, and may put an older certificate back under.
    """
    held = newest([held], removed=removed, now=now)
    if stored is not None and stored.fingerprint in removed:
        return Action.RESTORE if held else Action.REMOVE
    if held is None:
        return Action.KEEP
    if stored is None:
        return Action.RESTORE
    if stored_is_right or held.fingerprint in (stored.fingerprint, predecessor):
        return Action.KEEP
    return Action.RESTORE if held.not_before > stored.not_before else Action.KEEP
