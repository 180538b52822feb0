"""tls-alpn-01: certificates that every instance gives, one challenge of a name at a time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable

import pytest

from ssl_cert_server.challenges import tlsalpn01
from ssl_cert_server.challenges.tlsalpn01 import TlsAlpn01Responder
from ssl_cert_server.errors import ChallengeFailed, StorageError
from ssl_cert_server.model import Certificate
from ssl_cert_server.pki.x509 import parse_certificate
from tests.support.clock import ManualClock
from tests.support.faulty_storage import FaultyStorage

TOKEN = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA"
ANSWER = f"{TOKEN}.9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"
OTHER_TOKEN = "DGyRejmCefe7v4NfDGDKfA5Dt3juxGJ-PCt92wr-oAx"
OTHER_ANSWER = f"{OTHER_TOKEN}.9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"
NAME = "a.example"
KEY = f"_challenges/tls-alpn-01/{NAME}"
WEEK = 7 * 86_400
ADDRESSES = {
    "192.0.2.1": "1.2.0.192.in-addr.arpa",
    "2001:db8::1": "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa",
}


@pytest.fixture
def responder(storage: FaultyStorage, clock: ManualClock) -> TlsAlpn01Responder:
    return TlsAlpn01Responder(storage, clock)


@pytest.fixture
def peer(storage: FaultyStorage, clock: ManualClock) -> TlsAlpn01Responder:
    """Another instance of the server."""
    return TlsAlpn01Responder(storage, clock)


async def kept(storage: FaultyStorage) -> list[str]:
    return [key async for key in storage.list("_challenges/tls-alpn-01")]


async def given(responder: TlsAlpn01Responder, name: str = NAME) -> Certificate:
    certificate = await responder.answer(name)
    assert certificate is not None
    return certificate


async def waiting(clock: ManualClock, work: Awaitable[None]) -> asyncio.Task[None]:
    """Start it, and see that it waits."""
    task = asyncio.ensure_future(work)
    await clock.advance(0)
    assert not task.done()
    return task


async def test_what_is_presented_is_answered_by_every_instance(
    responder: TlsAlpn01Responder, peer: TlsAlpn01Responder
) -> None:
    await responder.present(NAME, TOKEN, ANSWER)
    certificate = await given(responder)
    assert certificate.names == {NAME}
    assert await peer.answer(NAME) == certificate


@pytest.mark.parametrize(("address", "reverse"), ADDRESSES.items())
async def test_an_address_is_asked_for_by_its_reverse_name(
    responder: TlsAlpn01Responder, peer: TlsAlpn01Responder, address: str, reverse: str
) -> None:
    await responder.present(address, TOKEN, ANSWER)
    for instance in (responder, peer):
        certificate = await given(instance, reverse)
        assert certificate.names == {address}
        assert await instance.answer(reverse.upper() + ".") == certificate
        assert await instance.answer(address) == certificate
    await responder.cleanup(address, TOKEN)
    assert await peer.answer(reverse) is None


@pytest.mark.parametrize("spelling", ["A.Example", "a.example."])
async def test_the_spelling_of_a_name_does_not_matter(responder: TlsAlpn01Responder, spelling: str) -> None:
    await responder.present(NAME, TOKEN, ANSWER)
    assert await responder.answer(spelling) == await given(responder)


async def test_the_record_holds_no_more_than_it_needs(
    responder: TlsAlpn01Responder, storage: FaultyStorage, clock: ManualClock
) -> None:
    await responder.present(NAME, TOKEN, ANSWER)
    stored = await storage.get(KEY) or b""
    record = json.loads(stored)
    assert record.keys() == {"name", "certificate", "created"}
    assert (record["name"], record["created"]) == (NAME, clock.now())
    assert parse_certificate(record["certificate"].encode()) == await given(responder)
    assert TOKEN.encode() not in stored
    assert ANSWER.partition(".")[2].encode() not in stored


async def test_it_is_kept_before_it_counts_as_presented(responder: TlsAlpn01Responder, storage: FaultyStorage) -> None:
    storage.break_down("put")
    with pytest.raises(StorageError) as failure:
        await responder.present(NAME, TOKEN, ANSWER)
    assert TOKEN not in str(failure.value)
    assert await responder.answer(NAME) is None
    storage.repair()
    await responder.cleanup(NAME, TOKEN)
    await responder.present(NAME, OTHER_TOKEN, OTHER_ANSWER)  # nothing is in its way


async def test_the_presenting_instance_answers_while_storage_is_gone(
    responder: TlsAlpn01Responder, peer: TlsAlpn01Responder, storage: FaultyStorage
) -> None:
    await responder.present(NAME, TOKEN, ANSWER)
    storage.break_down("get")
    await given(responder)
    with pytest.raises(StorageError):
        await peer.answer(NAME)


async def test_after_cleanup_nobody_answers(
    responder: TlsAlpn01Responder, peer: TlsAlpn01Responder, storage: FaultyStorage
) -> None:
    await responder.present(NAME, TOKEN, ANSWER)
    await responder.cleanup(NAME, TOKEN)
    assert await responder.answer(NAME) is None
    assert await peer.answer(NAME) is None
    assert await kept(storage) == []


async def test_a_cleanup_that_fails_still_ends_the_answer_here_and_makes_room(
    responder: TlsAlpn01Responder, peer: TlsAlpn01Responder, storage: FaultyStorage
) -> None:
    await responder.present(NAME, TOKEN, ANSWER)
    storage.break_down("delete")
    with pytest.raises(StorageError):
        await responder.cleanup(NAME, TOKEN)
    storage.break_down("get")
    with pytest.raises(StorageError):
        await responder.answer(NAME)  # no longer from memory
    storage.repair()
    await peer.present(NAME, OTHER_TOKEN, OTHER_ANSWER)
    assert await responder.answer(NAME) == await given(peer)


async def test_cleaning_up_another_challenge_does_nothing(
    responder: TlsAlpn01Responder, peer: TlsAlpn01Responder
) -> None:
    await responder.cleanup(NAME, TOKEN)
    await responder.present(NAME, TOKEN, ANSWER)
    await responder.cleanup(NAME, OTHER_TOKEN)
    await responder.cleanup("b.example", TOKEN)
    await peer.cleanup(NAME, TOKEN)
    assert await peer.answer(NAME) == await given(responder)


async def test_challenges_of_different_names_stand_side_by_side(
    responder: TlsAlpn01Responder, peer: TlsAlpn01Responder
) -> None:
    names = [f"n{number}.example" for number in range(10)]
    for name in names:
        await responder.present(name, TOKEN, ANSWER)
    assert [(await given(peer, name)).names for name in names] == [{name} for name in names]


class TestTurns:
    """A CA doesn't say which of a name's challenges it looks at, so there is one at a time."""

    @pytest.fixture(params=["in one instance", "in two"])
    def other(
        self, request: pytest.FixtureRequest, responder: TlsAlpn01Responder, peer: TlsAlpn01Responder
    ) -> TlsAlpn01Responder:
        return responder if request.param == "in one instance" else peer

    async def test_the_next_one_waits_for_the_cleanup(
        self, responder: TlsAlpn01Responder, other: TlsAlpn01Responder, clock: ManualClock
    ) -> None:
        await responder.present(NAME, TOKEN, ANSWER)
        first = await given(responder)
        second = await waiting(clock, other.present(NAME, OTHER_TOKEN, OTHER_ANSWER))
        assert await other.answer(NAME) == first
        await responder.cleanup(NAME, TOKEN)
        await clock.advance(1)
        await second
        assert await responder.answer(NAME) == await given(other) != first

    async def test_one_that_gives_up_leaves_the_first_alone(
        self, responder: TlsAlpn01Responder, other: TlsAlpn01Responder, clock: ManualClock
    ) -> None:
        """Its token may be the same one: orders share pending authorizations."""
        await responder.present(NAME, TOKEN, ANSWER)
        second = await waiting(clock, other.present(NAME, TOKEN, ANSWER))
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        await other.cleanup(NAME, TOKEN)
        await given(responder)
        await responder.cleanup(NAME, TOKEN)
        assert await responder.answer(NAME) is None
        await other.present(NAME, TOKEN, ANSWER)
        await other.cleanup(NAME, TOKEN)
        assert await other.answer(NAME) is None

    async def test_the_wait_has_an_end(
        self, responder: TlsAlpn01Responder, other: TlsAlpn01Responder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await responder.present(NAME, TOKEN, ANSWER)
        monkeypatch.setattr(tlsalpn01, "TURN_DEADLINE", 0.01)
        with pytest.raises(ChallengeFailed, match=r"^a\.example: another tls-alpn-01 challenge") as failure:
            await other.present(NAME, OTHER_TOKEN, OTHER_ANSWER)
        assert OTHER_TOKEN not in str(failure.value)
        await other.cleanup(NAME, OTHER_TOKEN)
        await given(responder)

    async def test_it_is_held_for_as_long_as_a_ca_takes(
        self, responder: TlsAlpn01Responder, peer: TlsAlpn01Responder, clock: ManualClock
    ) -> None:
        await responder.present(NAME, TOKEN, ANSWER)
        second = await waiting(clock, peer.present(NAME, OTHER_TOKEN, OTHER_ANSWER))
        await clock.advance(300)
        assert not second.done()
        second.cancel()

    async def test_what_was_taken_over_is_left_to_the_other(
        self, responder: TlsAlpn01Responder, storage: FaultyStorage
    ) -> None:
        await responder.present(NAME, TOKEN, ANSWER)
        storage.steal(f"tls-alpn-01/{NAME}")
        await storage.put(KEY, b"the other's")
        await responder.cleanup(NAME, TOKEN)
        assert await storage.get(KEY) == b"the other's"


HOSTILE = ["", ".", "..", "a b", "../../acme_account+key", "a\0.example", "_.example", "*.example", "a" * 300, "b\n"]


@pytest.mark.parametrize("name", HOSTILE)
async def test_what_is_no_name_does_not_reach_storage(
    responder: TlsAlpn01Responder, storage: FaultyStorage, name: str
) -> None:
    storage.break_down("get", "list")
    assert await responder.answer(name) is None


@pytest.mark.parametrize(
    "stored",
    [b"", b"garbage", b"{}", b"[]", b"null", b'{"created": 1}', b'{"certificate": 1}', b'{"certificate": ""}', b"\xff"],
)
async def test_a_record_that_makes_no_sense_has_no_answer_and_is_removed(
    responder: TlsAlpn01Responder, storage: FaultyStorage, stored: bytes
) -> None:
    await storage.put(KEY, stored)
    assert await responder.answer(NAME) is None
    await responder.remove_left_over()
    assert await kept(storage) == []


async def test_what_killed_instances_left_goes_after_a_week_and_nothing_else(
    storage: FaultyStorage, clock: ManualClock
) -> None:
    def instance() -> TlsAlpn01Responder:
        return TlsAlpn01Responder(storage, clock)

    await instance().present("old.example", TOKEN, ANSWER)
    await clock.advance(WEEK)
    await instance().present("new.example", TOKEN, ANSWER)
    await storage.put(NAME, b"a certificate")
    await instance().remove_left_over()
    assert len(await kept(storage)) == 2, "exactly a week is not too old"
    await clock.advance(1)
    await instance().remove_left_over()
    assert await kept(storage) == ["_challenges/tls-alpn-01/new.example"]
    assert await storage.get(NAME) == b"a certificate"


async def test_the_token_does_not_show(responder: TlsAlpn01Responder) -> None:
    await responder.present(NAME, TOKEN, ANSWER)
    assert TOKEN not in repr(responder._turns)
