"""What is kept survives, and what is broken says nothing."""

from __future__ import annotations

import pytest

from ssl_cert_server.ocsp.codec import CertIdHash, OcspStatus
from ssl_cert_server.ocsp.staples import Staple, forget_staple, load_staple, save_staple
from tests.support.clock import START, ManualClock
from tests.support.faulty_storage import FaultyStorage

STAPLE = Staple(
    "fingerprint", OcspStatus.GOOD, b"\x00\xff", START, START + 10, START + 5, '"etag"', CertIdHash.SHA1, failures=3
)


@pytest.fixture
def storage() -> FaultyStorage:
    return FaultyStorage(ManualClock())


async def test_everything_is_kept(storage: FaultyStorage) -> None:
    await save_staple(storage, "*.a.com+rsa", STAPLE)
    assert await load_staple(storage, "*.a.com+rsa") == STAPLE
    await forget_staple(storage, "*.a.com+rsa")
    assert await load_staple(storage, "*.a.com+rsa") == Staple()


@pytest.mark.parametrize("broken", [b"", b"{}", b"[]", b"null", b'{"fingerprint": 1}', b"\xff"])
async def test_what_is_broken_says_nothing(storage: FaultyStorage, broken: bytes) -> None:
    await storage.put("_ocsp/a.com", broken)
    assert await load_staple(storage, "a.com") == Staple()


def test_it_may_be_stapled_while_it_holds_and_no_longer() -> None:
    assert not STAPLE.holds(START - 1)
    assert STAPLE.holds(START)
    assert STAPLE.holds(START + 9.9)
    assert not STAPLE.holds(START + 10)
    assert not Staple("f", OcspStatus.REVOKED, b"", START, START + 10).holds(START)


def test_the_response_does_not_swell_a_log() -> None:
    assert "response" not in repr(STAPLE)
