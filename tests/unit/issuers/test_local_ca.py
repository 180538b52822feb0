"""The local CA: one root for all instances and restarts, leaves that its clients accept."""

from __future__ import annotations

import asyncio
import datetime

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store
from structlog.testing import capture_logs

from ssl_cert_server.errors import InvalidCertificate, StorageError
from ssl_cert_server.issuers.local_ca import ROOT_KEY, LocalCa
from ssl_cert_server.model import Certificate, Subject
from ssl_cert_server.pki.signing import Validity, make_root
from tests.support.certs import DAY, make_pair
from tests.support.clock import START, ManualClock
from tests.support.faulty_storage import FaultyStorage
from tests.support.leaks import assert_no_key


@pytest.fixture
def ca(storage: FaultyStorage, clock: ManualClock) -> LocalCa:
    return LocalCa(storage, clock)


def verify(leaf: Certificate, root: Certificate, name: str, when: float) -> None:
    store = Store([x509.load_pem_x509_certificate(root.chain_pem)])
    policy = PolicyBuilder().store(store).time(datetime.datetime.fromtimestamp(when, datetime.UTC))
    policy.build_server_verifier(x509.DNSName(name)).verify(x509.load_pem_x509_certificate(leaf.chain_pem), [])


async def test_a_leaf_verifies_against_the_root(ca: LocalCa, clock: ManualClock) -> None:
    for name in ("localhost", "a.test", "b.internal"):
        leaf = await ca.obtain(name, Subject(""))
        verify(leaf, await ca.root(), name, clock.now())
        assert leaf.names == {name}


async def test_the_root_is_stored_before_it_signs(ca: LocalCa, storage: FaultyStorage) -> None:
    storage.break_down("put")
    with pytest.raises(StorageError):
        await ca.obtain("a.test", Subject(""))
    storage.repair()
    await ca.obtain("a.test", Subject(""))
    assert await storage.get(ROOT_KEY) == (await ca.root()).stored


async def test_the_root_stays_over_a_restart(ca: LocalCa, storage: FaultyStorage, clock: ManualClock) -> None:
    before = await ca.root()
    after = await LocalCa(storage, clock).root()
    assert (after.fingerprint, after.key_pem) == (before.fingerprint, before.key_pem)


async def test_two_instances_create_one_root(storage: FaultyStorage, clock: ManualClock) -> None:
    with capture_logs() as logs:
        roots = asyncio.gather(*(LocalCa(storage, clock).root() for _ in range(2)))
        while not roots.done():
            await clock.advance(1)
    assert len(set(roots.result())) == 1
    [log] = logs
    assert (log["event"], log["fingerprint"]) == ("local_ca.root_created", roots.result()[0].fingerprint)


async def test_roots_of_different_storages_differ_in_name(clock: ManualClock) -> None:
    roots = [await LocalCa(FaultyStorage(clock), clock).root() for _ in range(2)]
    subjects = {x509.load_pem_x509_certificate(root.chain_pem).subject for root in roots}
    assert len(subjects) == 2


async def test_leaves_are_not_stored(ca: LocalCa, storage: FaultyStorage) -> None:
    for number in range(20):
        await ca.obtain(f"{number}.test", Subject(f"{number}.test"))
    assert [key async for key in storage.list()] == []
    assert [key async for key in storage.list("_local_ca")] == [ROOT_KEY]


async def test_a_leaf_never_outlives_its_root(storage: FaultyStorage, clock: ManualClock) -> None:
    root = make_root("Ours", Validity.days_from(START, 30))
    await storage.put(ROOT_KEY, root.stored)
    leaf = await LocalCa(storage, clock).obtain("a.test", Subject(""))
    assert leaf.not_after == root.not_after
    verify(leaf, root, "a.test", leaf.not_after - 1)


async def test_memory_asks_again_with_a_third_of_the_leafs_life_left(ca: LocalCa) -> None:
    leaf = await ca.obtain("a.test", Subject(""))
    assert leaf.not_after == int(START) + 90 * DAY
    assert ca.fresh_until(leaf) == pytest.approx(START + 60 * DAY, abs=300)


async def test_an_expired_root_signs_nothing_and_is_kept(
    ca: LocalCa, storage: FaultyStorage, clock: ManualClock
) -> None:
    root = await ca.root()
    await clock.advance(3651 * DAY)
    for instance in (ca, LocalCa(storage, clock)):
        with pytest.raises(InvalidCertificate, match="expired"):
            await instance.obtain("a.test", Subject(""))
    assert await storage.get(ROOT_KEY) == root.stored


@pytest.mark.parametrize(
    "stored",
    [make_pair(["a.test"]).stored, make_pair().key_pem + make_pair().pem, b"garbage", b""],
    ids=["no CA", "mismatched", "garbage", "empty"],
)
async def test_what_is_no_root_is_refused_and_not_overwritten(
    ca: LocalCa, storage: FaultyStorage, stored: bytes
) -> None:
    await storage.put(ROOT_KEY, stored)
    with pytest.raises(InvalidCertificate):
        await ca.obtain("a.test", Subject(""))
    assert await storage.get(ROOT_KEY) == stored


async def test_no_key_is_shown(ca: LocalCa) -> None:
    with capture_logs() as logs:
        leaf, root = await ca.obtain("a.test", Subject("")), await ca.root()
    assert_no_key(root.key_pem, logs, leaf, root)
    assert_no_key(leaf.key_pem, logs, leaf, root)
