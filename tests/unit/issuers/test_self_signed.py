"""The self-signed certificate: taken over from storage, replaced in time, made once."""

from __future__ import annotations

import asyncio

import pytest
from cryptography import x509
from structlog.testing import capture_logs

from ssl_cert_server.errors import StorageError
from ssl_cert_server.issuers.self_signed import SelfSignedIssuer
from ssl_cert_server.model import Subject
from ssl_cert_server.pki.x509 import parse_certificate
from tests.support.certs import DAY, make_pair
from tests.support.clock import START, ManualClock
from tests.support.faulty_storage import FaultyStorage
from tests.support.leaks import assert_no_key

KEY = "self_signed"


@pytest.fixture
def issuer(storage: FaultyStorage, clock: ManualClock) -> SelfSignedIssuer:
    return SelfSignedIssuer(storage, clock, valid_days=365, organization=["Our Organization"])


async def test_one_is_made_and_stored_before_it_is_given(issuer: SelfSignedIssuer, storage: FaultyStorage) -> None:
    certificate = await issuer.obtain("a.example", Subject(KEY))
    assert await storage.get(KEY) == certificate.stored
    assert certificate.not_after == int(START) + 365 * DAY
    [subject] = x509.load_pem_x509_certificate(certificate.chain_pem).subject
    assert subject.value == "Our Organization"


async def test_all_names_get_the_same_one(issuer: SelfSignedIssuer) -> None:
    assert await issuer.obtain("a.example", Subject(KEY)) == await issuer.obtain("b.example", Subject(KEY))


async def test_the_stored_one_is_taken_over(issuer: SelfSignedIssuer, storage: FaultyStorage) -> None:
    pair = make_pair(["localhost"])
    await storage.put(KEY, pair.stored)
    storage.break_down("put")
    assert await issuer.obtain("a.example", Subject(KEY)) == parse_certificate(pair.stored)


@pytest.mark.parametrize(
    "stored",
    [
        make_pair(end=START - 1).stored,
        make_pair(start=START + 1).stored,
        make_pair().key_pem + make_pair().pem,
        make_pair().pem,
        b"garbage",
        b"",
    ],
    ids=["expired", "not valid yet", "mismatched", "no key", "garbage", "empty"],
)
async def test_one_that_cannot_be_used_is_replaced(
    issuer: SelfSignedIssuer, storage: FaultyStorage, stored: bytes
) -> None:
    await storage.put(KEY, stored)
    with capture_logs() as logs:
        certificate = await issuer.obtain("a.example", Subject(KEY))
    assert await storage.get(KEY) == certificate.stored != stored
    assert [log["event"] for log in logs] == ["self_signed.replaced", "self_signed.replaced", "self_signed.made"]


async def test_it_is_replaced_when_a_tenth_of_its_life_is_left(
    issuer: SelfSignedIssuer, storage: FaultyStorage
) -> None:
    fresh = make_pair(start=START - 89 * DAY, end=START + 11 * DAY).stored
    await storage.put(KEY, fresh)
    assert (await issuer.obtain("a.example", Subject(KEY))).stored == fresh
    late = make_pair(start=START - 91 * DAY, end=START + 9 * DAY).stored
    await storage.put(KEY, late)
    assert (await issuer.obtain("a.example", Subject(KEY))).stored != late


async def test_near_expiry_the_old_one_is_given_where_storage_cannot_be_written(
    issuer: SelfSignedIssuer, storage: FaultyStorage, clock: ManualClock
) -> None:
    old = make_pair(start=START - 91 * DAY, end=START + 9 * DAY).stored
    await storage.put(KEY, old)
    storage.break_down("put")
    with capture_logs() as logs:
        certificate = await issuer.obtain("a.example", Subject(KEY))
    assert certificate.stored == old
    [log] = logs
    assert (log["event"], log["log_level"], log["cert_key"]) == ("self_signed.not_renewed", "warning", KEY)
    assert "the disk is gone" in log["reason"]
    assert clock.now() < issuer.fresh_until(certificate) <= clock.now() + 60, "memory may give it, but asks again soon"
    storage.repair()
    assert (await issuer.obtain("a.example", Subject(KEY))).stored != old


async def test_the_old_one_is_not_given_after_it_expired(
    issuer: SelfSignedIssuer, storage: FaultyStorage, clock: ManualClock
) -> None:
    await storage.put(KEY, make_pair(start=START - 91 * DAY, end=START + 30).stored)
    storage.break_down("put")
    certificate = await issuer.obtain("a.example", Subject(KEY))
    assert issuer.fresh_until(certificate) == certificate.not_after
    clock.jump(30)
    with pytest.raises(StorageError):
        await issuer.obtain("a.example", Subject(KEY))


async def test_memory_asks_again_when_it_would_be_replaced(issuer: SelfSignedIssuer, clock: ManualClock) -> None:
    certificate = await issuer.obtain("a.example", Subject(KEY))
    await clock.advance(issuer.fresh_until(certificate) - clock.now() - 1)
    assert await issuer.obtain("a.example", Subject(KEY)) == certificate
    await clock.advance(1)
    assert await issuer.obtain("a.example", Subject(KEY)) != certificate


async def test_two_issuers_on_one_storage_make_one(storage: FaultyStorage, clock: ManualClock) -> None:
    issuers = [SelfSignedIssuer(storage, clock, valid_days=365, organization=["x"]) for _ in range(2)]
    with capture_logs() as logs:
        made = asyncio.gather(*(issuer.obtain("a.example", Subject(KEY)) for _ in range(5) for issuer in issuers))
        while not made.done():
            await clock.advance(1)
    assert len(set(made.result())) == 1
    assert [log["event"] for log in logs] == ["self_signed.made"]


async def test_one_that_could_not_be_stored_is_not_given(issuer: SelfSignedIssuer, storage: FaultyStorage) -> None:
    storage.break_down("put")
    with pytest.raises(StorageError):
        await issuer.obtain("a.example", Subject(KEY))
    storage.repair()
    assert (await issuer.obtain("a.example", Subject(KEY))).stored == await storage.get(KEY)


async def test_storage_that_cannot_be_read_is_no_reason_to_make_another(
    issuer: SelfSignedIssuer, storage: FaultyStorage
) -> None:
    first = await issuer.obtain("a.example", Subject(KEY))
    storage.break_down("get")
    with pytest.raises(StorageError):
        await issuer.obtain("a.example", Subject(KEY))
    storage.repair()
    assert await issuer.obtain("a.example", Subject(KEY)) == first


async def test_the_key_is_in_no_log(issuer: SelfSignedIssuer, storage: FaultyStorage) -> None:
    other = make_pair()
    await storage.put(KEY, other.key_pem + make_pair().pem)
    with capture_logs() as logs:
        certificate = await issuer.obtain("a.example", Subject(KEY))
    assert_no_key(certificate.key_pem, logs, certificate)
    assert_no_key(other.key_pem, logs)
