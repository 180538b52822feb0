"""The ACME account: its key is kept before it is used, and it is registered once."""

from __future__ import annotations

import asyncio
import hashlib
import json

import httpx2
import pytest
from josepy.jwk import JWK
from structlog.testing import capture_logs

from ssl_cert_server.acme.jose import AccountKey
from ssl_cert_server.errors import AccountRefused, AcmeError, CaProblem, StorageError
from ssl_cert_server.issuers.account import AccountPlace, AcmeAccount
from ssl_cert_server.storage.removals import load_removals
from tests.support.fake_ca import FakeCa, problem
from tests.support.faulty_storage import FaultyStorage
from tests.support.leaks import assert_no_key
from tests.unit.issuers.conftest import MakeAccount

PLACE = AccountPlace.at(FakeCa.directory_url)
LETS_ENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"
STAGING = "https://acme-staging-v02.api.letsencrypt.org/directory"
UNKNOWN = CaProblem("no such account", type="accountDoesNotExist", status=400)
UNAUTHORIZED = CaProblem("the signature is wrong", type="unauthorized", status=401)


def registered_keys(ca: FakeCa) -> list[object]:
    return [account.jwk for account in ca.accounts]


def public_jwk(pem: bytes | None) -> object:
    return JWK.load(pem or b"").public_key()


# --- where it is kept


def test_at_lets_encrypt_the_key_is_the_predecessors() -> None:
    assert AccountPlace.at(LETS_ENCRYPT).key == "acme_account+key"


@pytest.mark.parametrize(
    "url",
    [
        STAGING,
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
    with pytest.raises(AccountRefused, match="too many") as refusal:
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
    assert await account.mend(session, UNKNOWN)
    assert await account.session() is not session
    assert registered_keys(fake_ca) == [public_jwk(key)]
    assert await storage.get(PLACE.key) == key


async def test_forgetting_an_earlier_session_leaves_the_present_one(make_account: MakeAccount, fake_ca: FakeCa) -> None:
    account = make_account()
    earlier = await account.session()
    assert await account.mend(earlier, UNKNOWN)
    present = await account.session()
    assert await account.mend(earlier, UNKNOWN), "it is worth trying in the present one"
    assert await account.session() is present
    assert fake_ca.requests.count("newAccount") == 2


async def test_another_refusal_says_nothing_of_the_account(make_account: MakeAccount, fake_ca: FakeCa) -> None:
    account = make_account()
    session = await account.session()
    assert not await account.mend(session, UNAUTHORIZED)
    assert await account.session() is session
    assert fake_ca.requests.count("newAccount") == 1


async def test_a_refusal_is_worth_another_try_where_another_instance_changed_the_key(make_account: MakeAccount) -> None:
    account = make_account()
    session = await account.session()
    await make_account().change_key()
    assert await account.mend(session, UNAUTHORIZED)
    assert await account.session() is not session


# --- another key for the account


async def works(account: AcmeAccount) -> None:
    await (await account.session()).new_order(["a.example"])


async def test_the_key_is_changed_and_the_account_stays(
    make_account: MakeAccount, fake_ca: FakeCa, storage: FaultyStorage
) -> None:
    account = make_account()
    await works(account)
    old = await storage.get(PLACE.key)
    await make_account().change_key()
    new = await storage.get(PLACE.key)
    assert new != old
    assert registered_keys(fake_ca) == [public_jwk(new)]
    assert await storage.get(PLACE.next_key) is None
    await works(account)
    await works(make_account())
    assert fake_ca.requests.count("newAccount") == 2, "one to register, one to see that the new key holds"


async def test_the_next_key_is_kept_before_the_ca_hears_of_it(
    make_account: MakeAccount, fake_ca: FakeCa, storage: FaultyStorage
) -> None:
    await make_account().session()
    storage.break_down("put", key=PLACE.next_key)
    with pytest.raises(StorageError):
        await make_account().change_key()
    assert "keyChange" not in fake_ca.requests
    await works(make_account())


async def test_a_refused_change_leaves_the_old_key(
    make_account: MakeAccount, fake_ca: FakeCa, storage: FaultyStorage
) -> None:
    account = make_account()
    await works(account)
    old = await storage.get(PLACE.key)
    fake_ca.fail("keyChange", problem("unauthorized", "no"))
    with pytest.raises(CaProblem):
        await account.change_key()
    await works(account)
    assert await storage.get(PLACE.key) == old
    assert await storage.get(PLACE.next_key) is None
    assert len(fake_ca.accounts) == 1


async def crash_while_changing(account: AcmeAccount, fake_ca: FakeCa, storage: FaultyStorage, at: str) -> None:
    match at:
        case "the CA has not heard of it":
            fake_ca.hang = "keyChange"
        case "the CA has done it":
            storage.break_down("put", key=PLACE.key)
        case "the next key is in its place":
            storage.break_down("delete", key=PLACE.next_key)
    changing = asyncio.ensure_future(account.change_key())
    if fake_ca.hang:
        await fake_ca.reached_hang.wait()
        changing.cancel()
    await asyncio.gather(changing, return_exceptions=True)
    fake_ca.hang = None
    storage.repair()
    assert await storage.get(PLACE.next_key) is not None


@pytest.mark.parametrize("then", ["work", "change it again", "deactivate", "mend"])
@pytest.mark.parametrize("at", ["the CA has not heard of it", "the CA has done it", "the next key is in its place"])
async def test_a_crash_amid_a_change_loses_neither_account_nor_key(
    make_account: MakeAccount, fake_ca: FakeCa, storage: FaultyStorage, at: str, then: str
) -> None:
    running = make_account()
    session = await running.session()
    await crash_while_changing(make_account(), fake_ca, storage, at)
    match then:
        case "work":
            await works(make_account())
        case "change it again":
            await make_account().change_key()
        case "mend":
            assert await running.mend(session, UNAUTHORIZED)
            await works(running)
        case "deactivate":
            await make_account().deactivate()
            assert [account.status for account in fake_ca.accounts] == ["deactivated"]
            return
    assert registered_keys(fake_ca) == [public_jwk(await storage.get(PLACE.key))]
    assert await storage.get(PLACE.next_key) is None
    await works(running)


async def test_while_a_change_is_unsettled_nothing_is_known_to_exist(
    make_account: MakeAccount, fake_ca: FakeCa, storage: FaultyStorage
) -> None:
    assert await make_account().existing() is None
    await make_account().session()
    existing = await make_account().existing()
    assert existing is not None
    assert existing.account_url == fake_ca.accounts[0].url
    await crash_while_changing(make_account(), fake_ca, storage, "the CA has done it")
    asked = [*fake_ca.requests]
    assert await make_account().existing() is None
    assert fake_ca.requests == asked


async def test_while_it_cannot_be_settled_neither_key_is_touched(
    make_account: MakeAccount, fake_ca: FakeCa, storage: FaultyStorage
) -> None:
    await make_account().session()
    await crash_while_changing(make_account(), fake_ca, storage, "the CA has done it")
    kept = [await storage.get(key) for key in (PLACE.key, PLACE.next_key)]
    fake_ca.fail("newAccount", *[httpx2.ConnectError("refused")] * 4)
    with pytest.raises(AcmeError):
        await make_account().session()
    assert [await storage.get(key) for key in (PLACE.key, PLACE.next_key)] == kept


@pytest.mark.parametrize("what", ["change_key", "deactivate"])
async def test_without_an_account_there_is_nothing_to_change(
    make_account: MakeAccount, fake_ca: FakeCa, what: str
) -> None:
    with pytest.raises(StorageError, match=r"there is no account for https://ca\.test/directory"):
        await getattr(make_account(), what)()
    assert fake_ca.accounts == []


# --- the end of an account


async def test_after_its_end_another_account_with_another_key_is_registered(
    make_account: MakeAccount, fake_ca: FakeCa, storage: FaultyStorage
) -> None:
    running = make_account()
    await running.session()
    old = await storage.get(PLACE.key)
    await make_account().deactivate()
    assert await storage.get(PLACE.key) is None
    await works(running)
    assert [account.status for account in fake_ca.accounts] == ["deactivated", "valid"]
    assert await storage.get(PLACE.key) != old


async def test_an_end_that_the_ca_refuses_leaves_the_account(make_account: MakeAccount, fake_ca: FakeCa) -> None:
    account = make_account()
    await account.session()
    fake_ca.fail("account", problem("malformed", "no"))
    with pytest.raises(CaProblem):
        await account.deactivate()
    await works(account)
    assert len(fake_ca.accounts) == 1


async def test_an_end_that_the_ca_had_made_already_is_no_failure(
    make_account: MakeAccount, fake_ca: FakeCa, storage: FaultyStorage
) -> None:
    account = make_account()
    await account.session()
    fake_ca.fail("account", problem("unauthorized", "the account is deactivated"))
    await account.deactivate()
    assert await storage.get(PLACE.key) is None
    await works(account)


async def test_after_an_end_that_was_cut_short_another_account_is_registered(
    make_account: MakeAccount, fake_ca: FakeCa, storage: FaultyStorage
) -> None:
    await make_account().session()
    storage.break_down("delete", key=PLACE.url)
    with pytest.raises(StorageError):
        await make_account().deactivate()
    storage.repair()
    await works(make_account())
    assert [account.status for account in fake_ca.accounts] == ["deactivated", "valid"]


# --- a storage that went back in time


async def test_an_account_that_storage_lost_is_written_back_and_not_registered_anew(
    make_account: MakeAccount, fake_ca: FakeCa, storage: FaultyStorage
) -> None:
    account = make_account()
    await account.session()
    key = await storage.get(PLACE.key)
    await storage.delete(PLACE.key)
    await storage.delete(PLACE.url)
    await works(account)
    assert await storage.get(PLACE.key) == key
    assert fake_ca.requests.count("newAccount") == 1


async def test_a_key_that_went_back_to_an_earlier_one_is_replaced_by_the_one_in_memory(
    make_account: MakeAccount, fake_ca: FakeCa, storage: FaultyStorage
) -> None:
    running = make_account()
    await running.session()
    before = await storage.get(PLACE.key)
    await make_account().change_key()
    await works(running)
    key = await storage.get(PLACE.key)
    await storage.put(PLACE.key, before or b"")
    await works(running)
    assert await storage.get(PLACE.key) == key != before
    assert len(fake_ca.accounts) == 1


async def test_an_account_that_was_ended_is_not_written_back(
    make_account: MakeAccount, fake_ca: FakeCa, storage: FaultyStorage
) -> None:
    running, other = make_account(), make_account()
    await running.session()
    old = await storage.get(PLACE.key)
    await other.session()
    await other.deactivate()
    for account in (other, running):
        await works(account)
    assert await storage.get(PLACE.key) != old
    assert [account.status for account in fake_ca.accounts] == ["deactivated", "valid"]


async def test_a_key_that_was_changed_is_not_written_back_by_an_instance_that_missed_the_change(
    make_account: MakeAccount, fake_ca: FakeCa, storage: FaultyStorage
) -> None:
    running = make_account()
    await running.session()
    old = await storage.get(PLACE.key)
    await make_account().change_key()
    await make_account().deactivate()
    await works(running)
    assert await storage.get(PLACE.key) != old
    assert [account.status for account in fake_ca.accounts] == ["deactivated", "valid"]


@pytest.mark.parametrize("at", ["the CA has done it", "the next key is in its place"])
async def test_a_change_that_a_crash_cut_short_removes_the_old_key_alone(
    make_account: MakeAccount, fake_ca: FakeCa, storage: FaultyStorage, at: str
) -> None:
    await make_account().session()
    old = await storage.get(PLACE.key)
    await crash_while_changing(make_account(), fake_ca, storage, at)
    await works(make_account())
    new = await storage.get(PLACE.key)
    assert [*await load_removals(storage, PLACE.key)] == [hashlib.sha256(old or b"").hexdigest()]
    assert new != old


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
