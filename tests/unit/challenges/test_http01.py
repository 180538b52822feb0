"""http-01: answers that every instance gives, and nothing for strangers."""

from __future__ import annotations

import json

import pytest

from ssl_cert_server.challenges.http01 import Http01Responder
from ssl_cert_server.errors import StorageError
from tests.support.clock import ManualClock
from tests.support.faulty_storage import FaultyStorage

TOKEN = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA"
ANSWER = f"{TOKEN}.9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"
WEEK = 7 * 86_400
HOSTILE = {
    "empty": "",
    "the parent": "..",
    "a path": "../../acme_account+key",
    "a slash": f"{TOKEN}/x",
    "a backslash": "a\\b",
    "a dot": ".",
    "a dot inside": ANSWER,
    "NUL": "a\0",
    "a newline at the end": f"{TOKEN}\n",
    "a space": "a b",
    "base64 that is not for URLs": "a+b=",
    "beyond ASCII": "tökén",
    "full-width digits": "\uff11\uff12",
    "201 characters": "a" * 201,
    "a million characters": "a" * 1_000_000,
}
hostile = pytest.mark.parametrize("token", HOSTILE.values(), ids=HOSTILE.keys())


@pytest.fixture
def responder(storage: FaultyStorage, clock: ManualClock) -> Http01Responder:
    return Http01Responder(storage, clock)


@pytest.fixture
def peer(storage: FaultyStorage, clock: ManualClock) -> Http01Responder:
    """Another instance of the server."""
    return Http01Responder(storage, clock)


async def kept(storage: FaultyStorage) -> list[str]:
    return [key async for key in storage.list("_challenges/http-01")]


async def test_what_is_presented_is_answered_by_every_instance(
    responder: Http01Responder, peer: Http01Responder
) -> None:
    await responder.present("a.example", TOKEN, ANSWER)
    assert await responder.answer(TOKEN) == ANSWER
    assert await peer.answer(TOKEN) == ANSWER


async def test_it_is_kept_before_it_counts_as_presented(responder: Http01Responder, storage: FaultyStorage) -> None:
    storage.break_down("put")
    with pytest.raises(StorageError):
        await responder.present("a.example", TOKEN, ANSWER)
    assert await responder.answer(TOKEN) is None


async def test_the_presenting_instance_answers_while_storage_is_gone(
    responder: Http01Responder, peer: Http01Responder, storage: FaultyStorage
) -> None:
    await responder.present("a.example", TOKEN, ANSWER)
    storage.break_down("get")
    assert await responder.answer(TOKEN) == ANSWER
    with pytest.raises(StorageError):
        await peer.answer(TOKEN)


async def test_after_cleanup_nobody_answers(
    responder: Http01Responder, peer: Http01Responder, storage: FaultyStorage
) -> None:
    await responder.present("a.example", TOKEN, ANSWER)
    await responder.cleanup("a.example", TOKEN)
    assert await responder.answer(TOKEN) is None
    assert await peer.answer(TOKEN) is None
    assert await kept(storage) == []


async def test_a_cleanup_that_fails_still_ends_the_answer_here(
    responder: Http01Responder, storage: FaultyStorage
) -> None:
    await responder.present("a.example", TOKEN, ANSWER)
    storage.break_down("delete")
    with pytest.raises(StorageError):
        await responder.cleanup("a.example", TOKEN)
    storage.break_down("get")
    with pytest.raises(StorageError):
        await responder.answer(TOKEN)  # no longer from memory


async def test_cleaning_up_what_was_never_presented_does_nothing(responder: Http01Responder) -> None:
    await responder.cleanup("a.example", TOKEN)


async def test_an_unknown_token_has_no_answer(responder: Http01Responder) -> None:
    await responder.present("a.example", TOKEN, ANSWER)
    assert await responder.answer(TOKEN[:-1]) is None
    assert await responder.answer(TOKEN.lower()) is None


async def test_many_challenges_are_kept_apart(responder: Http01Responder, peer: Http01Responder) -> None:
    for number in range(10):
        await responder.present("a.example", f"token-{number}", f"answer-{number}")
    assert [await peer.answer(f"token-{number}") for number in range(10)] == [f"answer-{n}" for n in range(10)]


@hostile
async def test_a_strangers_token_does_not_reach_storage(
    responder: Http01Responder, storage: FaultyStorage, token: str
) -> None:
    storage.break_down("get", "list")
    assert await responder.answer(token) is None


@hostile
async def test_a_token_that_no_ca_may_send_is_refused_and_not_quoted(
    responder: Http01Responder, storage: FaultyStorage, token: str
) -> None:
    with pytest.raises(StorageError) as refusal:
        await responder.present("a.example", token, "answer")
    assert not token or len(token) < 3 or token not in str(refusal.value)
    assert await kept(storage) == []
    assert await responder.answer(token) is None


@pytest.mark.parametrize("stored", [b"", b"garbage", b"{}", b"[]", b"null", b'{"created": 1}', b"\xff"])
async def test_a_record_that_makes_no_sense_has_no_answer_and_is_removed(
    responder: Http01Responder, storage: FaultyStorage, stored: bytes
) -> None:
    await storage.put(f"_challenges/http-01/{TOKEN}", stored)
    assert await responder.answer(TOKEN) is None
    await responder.remove_left_over()
    assert await kept(storage) == []


async def test_what_killed_instances_left_goes_after_a_week_and_nothing_else(
    responder: Http01Responder, storage: FaultyStorage, clock: ManualClock
) -> None:
    await responder.present("a.example", "old", "answer")
    await clock.advance(WEEK)
    await responder.present("a.example", "new", "answer")
    await storage.put("a.example", b"a certificate")
    await responder.remove_left_over()
    assert len(await kept(storage)) == 2, "exactly a week is not too old"
    await clock.advance(1)
    await responder.remove_left_over()
    assert await kept(storage) == ["_challenges/http-01/new"]
    assert await storage.get("a.example") == b"a certificate"


async def test_the_record_says_for_whom_and_when(
    responder: Http01Responder, storage: FaultyStorage, clock: ManualClock
) -> None:
    await responder.present("a.example", TOKEN, ANSWER)
    record = json.loads(await storage.get(f"_challenges/http-01/{TOKEN}") or b"")
    assert record == {"name": "a.example", "key_authorization": ANSWER, "created": clock.now()}


async def test_storage_that_fails_is_told(responder: Http01Responder, storage: FaultyStorage) -> None:
    await responder.present("a.example", TOKEN, ANSWER)
    storage.break_down("list")
    with pytest.raises(StorageError):
        await responder.remove_left_over()
