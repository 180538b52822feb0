"""Which certificate is right: the one in storage, or the one that is held."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl_cert_server.model import Certificate, KeyFamily
from ssl_cert_server.service.retention import Action, decide, newest

NOW = 1_000_000
OLD = Certificate(b"", b"", "old", NOW - 1000, NOW + 1000, frozenset({"a.com"}), KeyFamily.ECDSA)
NEW = replace(OLD, fingerprint="new", not_before=NOW - 10, not_after=NOW + 2000)
EXPIRED = replace(OLD, fingerprint="expired", not_before=NOW - 5, not_after=NOW)


@pytest.mark.parametrize(
    ("held", "stored", "removed", "action"),
    [
        (None, None, "", Action.KEEP),
        (None, OLD, "", Action.KEEP),
        (OLD, None, "", Action.RESTORE),
        (OLD, OLD, "", Action.KEEP),
        (NEW, OLD, "", Action.RESTORE),
        (OLD, NEW, "", Action.KEEP),
        (EXPIRED, None, "", Action.KEEP),
        (EXPIRED, OLD, "", Action.KEEP),
        (OLD, None, "old", Action.KEEP),
        (NEW, OLD, "new", Action.KEEP),
        (NEW, OLD, "old", Action.RESTORE),
        (OLD, OLD, "old", Action.REMOVE),
        (None, OLD, "old", Action.REMOVE),
        (EXPIRED, OLD, "old", Action.REMOVE),
    ],
)
def test_what_is_done(held: Certificate | None, stored: Certificate | None, removed: str, action: Action) -> None:
    assert decide(held, stored, removed={removed}, now=NOW) is action


def test_the_successor_of_what_is_held_is_right_though_its_ca_backdates_it_further() -> None:
    assert decide(NEW, OLD, removed=(), now=NOW, predecessor="new") is Action.KEEP
    assert decide(NEW, OLD, removed=(), now=NOW, predecessor="another") is Action.RESTORE


def test_what_an_operator_put_there_is_right_however_old_and_what_is_missing_is_restored() -> None:
    assert decide(NEW, OLD, removed=(), now=NOW, stored_is_right=True) is Action.KEEP
    assert decide(NEW, None, removed=(), now=NOW, stored_is_right=True) is Action.RESTORE


def test_the_newest_is_the_last_issued_that_is_valid_and_was_not_removed() -> None:
    held = [None, OLD, NEW, EXPIRED]
    assert newest(held, removed=(), now=NOW) is NEW
    assert newest(held, removed={"new"}, now=NOW) is OLD
    assert newest(held, removed={"new", "old"}, now=NOW) is None


certificates = st.none() | st.builds(
    lambda fingerprint, before, after: replace(
        OLD, fingerprint=fingerprint, not_before=NOW - before, not_after=NOW + after
    ),
    st.sampled_from("abc"),
    st.integers(1, 100),
    st.integers(-10, 100),
)


@given(certificates, certificates, st.sets(st.sampled_from("abc")))
def test_nothing_removed_or_expired_is_ever_written_and_nothing_valid_deleted(
    held: Certificate | None, stored: Certificate | None, removed: set[str]
) -> None:
    action = decide(held, stored, removed=removed, now=NOW)
    if action is Action.RESTORE:
        assert held is not None
        assert held.fingerprint not in removed
        assert held.not_after > NOW
    if action is Action.REMOVE:
        assert stored is not None
        assert stored.fingerprint in removed
