"""Clients that poll hear of every change, once this instance acted upon it, whatever cursor they come with."""

from __future__ import annotations

import asyncio

import pytest

from ssl_cert_server.errors import Overloaded, StorageError, Unavailable
from ssl_cert_server.service.news import NameChanges, News
from ssl_cert_server.storage.base import CHANGES_KEPT
from tests.support.clock import ManualClock
from tests.support.faulty_storage import FaultyStorage
from tests.support.loop_time import LoopTime, settle


@pytest.fixture
def storage() -> FaultyStorage:
    return FaultyStorage(ManualClock())


@pytest.fixture
def news(storage: FaultyStorage) -> News:
    """It heard nothing but the present cursor."""
    news = News(storage, lambda key: [key, f"www.{key}"])
    news.tell(NameChanges("c0"))
    return news


@pytest.fixture
async def time() -> LoopTime:
    return LoopTime()


async def test_an_empty_cursor_gives_the_present_one_at_once(news: News) -> None:
    assert await news.since("", 1000) == NameChanges("c0")


async def test_who_asks_late_gets_everything_since_each_name_once(news: News) -> None:
    news.tell(NameChanges("c1", ("a.com", "b.com")))
    news.tell(NameChanges("c2", ("c.com", "a.com")))
    assert await news.since("c0", 1000) == NameChanges("c2", ("a.com", "b.com", "c.com"))
    assert await news.since("c1", 1000) == NameChanges("c2", ("c.com", "a.com"))


async def test_who_waits_hears_at_once(news: News) -> None:
    polls = [asyncio.create_task(news.since("c0", 1000)) for _ in range(3)]
    await settle()
    news.tell(NameChanges("c1", ("a.com",)))
    assert await asyncio.gather(*polls) == [NameChanges("c1", ("a.com",))] * 3


async def test_where_nothing_changes_the_wait_ends_with_the_same_cursor(news: News, time: LoopTime) -> None:
    poll = asyncio.create_task(news.since("c0", 30))
    await settle()
    news.tell(NameChanges("c0"))  # the storage was asked, and had nothing
    await time.advance(29)
    assert not poll.done()
    await time.advance(2)
    assert await poll == NameChanges("c0")


async def test_a_reset_is_handed_on_to_all_who_knew_what_was_before(news: News) -> None:
    news.tell(NameChanges("c1", ("a.com",)))
    news.tell(NameChanges("c2", reset=True))
    news.tell(NameChanges("c3", ("b.com",)))
    assert await news.since("c1", 0) == NameChanges("c3", reset=True)
    assert await news.since("c2", 0) == NameChanges("c3", ("b.com",))


async def test_cursors_that_begin_anew_after_a_reset_make_no_circle(news: News) -> None:
    news.tell(NameChanges("c1", ("a.com",)))
    news.tell(NameChanges("c0", reset=True))
    news.tell(NameChanges("c1", ("b.com",)))
    assert await news.since("c0", 0) == NameChanges("c1", ("b.com",))
    assert await news.since("c1", 0) == NameChanges("c1")


async def test_a_cursor_of_another_instance_is_looked_up_in_storage(storage: FaultyStorage) -> None:
    news = News(storage, lambda key: [key, f"www.{key}"])
    old = (await storage.changes("", 0)).cursor
    await storage.announce(["a.com"])
    await storage.announce(["b.com"])
    here = await storage.changes(old, 0)
    news.tell(NameChanges(here.cursor))
    await storage.announce(["not-acted-upon.com"])
    told = await news.since(old, 1000)
    assert told.cursor == here.cursor
    assert set(told.names) >= {"a.com", "www.a.com", "b.com", "www.b.com"}
    assert not told.reset


async def test_a_cursor_that_makes_no_sense_is_a_reset(news: News) -> None:
    assert await news.since("nonsense", 1000) == NameChanges("c0", reset=True)


async def test_one_that_is_too_old_is_a_reset(storage: FaultyStorage) -> None:
    news = News(storage, lambda key: [key])
    old = (await storage.changes("", 0)).cursor
    await storage.announce([f"{number}.com" for number in range(3 * CHANGES_KEPT)])
    newest = (await storage.changes("", 0)).cursor
    news.tell(NameChanges(newest))
    assert await news.since(old, 1000) == NameChanges(newest, reset=True)


async def test_what_storage_can_not_tell_is_an_error(news: News, storage: FaultyStorage) -> None:
    storage.break_down("changes")
    with pytest.raises(StorageError):
        await news.since("another", 0)


async def test_what_is_remembered_is_bounded(news: News) -> None:
    for number in range(30):
        news.tell(NameChanges(f"c{number + 1}", tuple(f"{number}-{name}.com" for name in range(1000))))
    assert news._size <= CHANGES_KEPT
    assert len((await news.since("c29", 0)).names) == 1000
    assert (await news.since("c1", 0)).reset


async def test_before_anything_is_known_nobody_is_told_a_cursor(storage: FaultyStorage, time: LoopTime) -> None:
    news = News(storage, lambda key: [key])
    late = asyncio.create_task(news.since("", 0))
    await settle()
    await time.advance(6)
    with pytest.raises(Unavailable):
        await late
    waiting = asyncio.create_task(news.since("", 5))
    await settle()
    news.tell(NameChanges("c0"))
    assert await waiting == NameChanges("c0")


async def test_so_many_may_wait_and_no_more(storage: FaultyStorage) -> None:
    news = News(storage, lambda key: [key], 2)
    news.tell(NameChanges("c0"))
    polls = [asyncio.create_task(news.since("c0", 1000)) for _ in range(2)]
    await settle()
    with pytest.raises(Overloaded):
        await news.since("c0", 1000)
    polls[0].cancel()
    await settle()
    polls.append(asyncio.create_task(news.since("c0", 1000)))
    await settle()
    news.close()
    assert await asyncio.gather(*polls[1:]) == [NameChanges("c0")] * 2
    assert await news.since("c0", 1000) == NameChanges("c0")  # nobody waits any more
