"""The ACME account: its key is kept before it is used, and it is registered once."""

from __future__ import annotations

import asyncio
import json

import httpx2
import pytest
from josepy.jwk import JWK
from structlog.testing import capture_logs

from ssl_cert_server.acme.jose import AccountKey
from ssl_cert_server.errors import AcmeError, CaProblem, StorageError
from ssl_cert_server.issuers.account import AccountPlace
from tests.support.fake_ca import FakeCa, problem
from tests.support.faulty_storage import FaultyStorage
from tests.support.leaks import assert_no_key
from tests.unit.issuers.conftest import MakeAccount

PLACE = AccountPlace.at(FakeCa.directory_url)
LETS_ENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"
STAGING = "https://acme-staging-v02.api.letsencrypt.org/directory"


def registered_keys(ca: FakeCa) -> list[object]:
    return [account.jwk for account in ca.accounts]


def public_jwk(pem: bytes | None) -> object:
    return JWK.load(pem or b"").public_key()


# --- where it is kept


@pytest.mark.parametrize("url", [LETS_ENCRYPT, STAGING])
def test_at_lets_encrypt_the_key_is_the_predecessors(url: str) -> None:
    assert AccountPlace.at(url).key == "acme_account+key"


def test_staging_and_production_are_two_accounts_of_that_key() -> None:
    assert AccountPlace.at(LETS_ENCRYPT).url != AccountPlace.at(STAGING).url


@pytest.mark.parametrize(
    "url",
    [
        "https://acme.example/directory",
        "https://acme-v02.api.letsencrypt.org.attacker.example/directory",
        "https://attacker.example/acme-v02.api.letsencrypt.org",
        "https://[2001:db8::1]:14000/dir",
        "https://127.0.0.1:14000/dir",
    ],
)
async def test_at_any_other_ca_the_key_is_its_own(url: str, storage: FaultyStorage) -> None:
    place = AccountPlace.at(url)
    assert place.key.startswith("_accounts/")
    await storage.put(place.key, b"a key that storage takes")
    await storage.put(place.url, b"a key that storage takes")


def test_each_ca_has_its_own_place() -> None:
    urls = [f"https://ca.example:{port}/{path}" for port in (1, 2) for path in ("dir", "dir/x")]
    places = [AccountPlace.at(url) for url in [*urls, "https://other.example/dir"]]
    assert len({place.key for place in places} | {place.url for place in places}) == 10


# --- registration


async def test_the_first_session_registers_and_later_ones_do_not(make_account: MakeAccount, fake_ca: FakeCa) -> None:
    account = make_account()
    first = await account.session()
    assert await account.session() is first
    await make_account().session()
    assert fake_ca.requests.count("newAccount") == 1
    assert fake_ca.accounts[0].contact == ["mailto:admin@example.com"]


async def test_the_key_is_kept_before_the_ca_hears_of_it(
    make_account: MakeAccount, fake_ca: FakeCa, storage: FaultyStorage
) -> None:
    fake_ca.hang = "newAccount"
    opening = asyncio.ensure_future(make_account().session())
    await fake_ca.reached_hang.wait()
    AccountKey.from_pem(await storage.get(PLACE.key) or b"")
    assert await storage.get(PLACE.url) is None
    opening.cancel()
    await asyncio.gather(opening, return_exceptions=True)


async def test_a_key_that_cannot_be_kept_is_not_registered(
    make_account: MakeAccount, fake_ca: FakeCa, storage: FaultyStorage
) -> None:
    storage.break_down("put", key=PLACE.key)
    with pytest.raises(StorageError):
        await make_account().session()
    assert "newAccount" not in fake_ca.requests


async def test_a_registration_cut_short_is_found_again_by_its_key(
    make_account: MakeAccount, fake_ca: FakeCa, storage: FaultyStorage
) -> None:
    storage.break_down("put", key=PLACE.url)
    with pytest.raises(StorageError):
        await make_account().session()
    storage.repair()
    await make_account().session()
    assert fake_ca.requests.count("newAccount") == 2
    assert len(fake_ca.accounts) == 1


async def test_two_instances_register_one_account(make_account: MakeAccount, fake_ca: FakeCa) -> None:
    accounts = [make_account(), make_account()]
    await asyncio.gather(*(account.session() for _ in range(5) for account in accounts))
    assert fake_ca.requests.count("newAccount") == 1


async def test_a_key_that_is_there_is_used(make_account: MakeAccount, fake_ca: FakeCa, storage: FaultyStorage) -> None:
    key = AccountKey.generate().to_pem()
    await storage.put(PLACE.key, key)
    await make_account().session()
    assert registered_keys(fake_ca) == [public_jwk(key)]
    assert await storage.get(PLACE.key) == key


@pytest.mark.parametrize("record", [b"", b"garbage", b"[]", b"{}", b"null"])
async def test_an_account_record_that_makes_no_sense_is_made_anew(
    make_account: MakeAccount, fake_ca: FakeCa, storage: FaultyStorage, record: bytes
) -> None:
    await make_account().session()
    await storage.put(PLACE.url, record)
    await make_account().session()
    assert len(fake_ca.accounts) == 1
    assert json.loads(await storage.get(PLACE.url) or b"")["url"] == fake_ca.accounts[0].url


async def test_a_refusal_is_told_and_the_next_call_tries_again(
    make_account: MakeAccount, fake_ca: FakeCa, storage: FaultyStorage
) -> None:
    fake_ca.fail("newAccount", problem("rateLimited", "too many", status=429, Retry_After="77"))
    account = make_account()
    with pytest.raises(CaProblem) as refusal:
        await account.session()
    assert refusal.value.retry_after == 77
    key = await storage.get(PLACE.key)
    await account.session()
    assert registered_keys(fake_ca) == [public_jwk(key)]


async def test_an_unreachable_ca_leaves_the_lease_free(make_account: MakeAccount, fake_ca: FakeCa) -> None:
    fake_ca.fail("directory", *[httpx2.ConnectError("refused")] * 4)
    with pytest.raises(AcmeError):
        await make_account().session()
    await make_account().session()
    assert len(fake_ca.accounts) == 1


# --- an account that the CA forgot


async def test_a_forgotten_account_is_registered_anew_with_the_same_key(
    make_account: MakeAccount, fake_ca: FakeCa, storage: FaultyStorage
) -> None:
    account = make_account()
    session = await account.session()
    key = await storage.get(PLACE.key)
    fake_ca.accounts.clear()
    await account.forget(session)
    assert await account.session() is not session
    assert registered_keys(fake_ca) == [public_jwk(key)]
    assert await storage.get(PLACE.key) == key


async def test_forgetting_an_earlier_session_leaves_the_present_one(make_account: MakeAccount, fake_ca: FakeCa) -> None:
    account = make_account()
    earlier = await account.session()
    await account.forget(earlier)
    present = await account.session()
    await account.forget(earlier)
    assert await account.session() is present
    assert fake_ca.requests.count("newAccount") == 2


# --- a key that can't be used


@pytest.mark.parametrize("stored", [b"", b"garbage", b"-----BEGIN EC PRIVATE KEY-----\nAAAA\n"])
@pytest.mark.parametrize("known", [False, True], ids=["no account yet", "an account"])
async def test_a_corrupt_key_is_told_and_never_replaced(
    make_account: MakeAccount, fake_ca: FakeCa, storage: FaultyStorage, stored: bytes, known: bool
) -> None:
    if known:
        await make_account().session()
    await storage.put(PLACE.key, stored)
    with pytest.raises(StorageError, match=r"_accounts/ca\.test-.*\.key can't be used .*restore it, or remove it"):
        await make_account().session()
    assert await storage.get(PLACE.key) == stored
    assert len(fake_ca.accounts) == known


async def test_the_key_is_in_no_log_error_or_repr(
    make_account: MakeAccount, fake_ca: FakeCa, storage: FaultyStorage
) -> None:
    with capture_logs() as logs:
        account = make_account()
        session = await account.session()
        key = await storage.get(PLACE.key) or b""
        await storage.put(PLACE.key, key[:-40])
        with pytest.raises(StorageError) as failure:
            await make_account().session()
    assert_no_key(key, logs, failure.value, account, session, AccountKey.from_pem(key))
