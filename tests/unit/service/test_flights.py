from __future__ import annotations

import asyncio
import gc

import pytest

from ssl_cert_server.errors import Unavailable
from ssl_cert_server.service.flights import Flights
from tests.support.loop_time import settle


class Work:
    """One piece of work that ends when told; ``starts`` counts how often it was begun."""

    def __init__(self) -> None:
        self.starts = 0
        self.cancelled = False
        self.result: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def __call__(self) -> str:
        self.starts += 1
        try:
            return await self.result
        except asyncio.CancelledError:
            self.cancelled = True
            raise


async def test_a_hundred_callers_share_one_piece_of_work() -> None:
    flights, work = Flights[str](10), Work()
    callers = [asyncio.create_task(flights.join("a.com", work)) for _ in range(100)]
    await settle()
    assert work.starts == 1
    assert "a.com" in flights
    work.result.set_result("done")
    assert set(await asyncio.gather(*callers)) == {"done"}
    await settle()
    assert "a.com" not in flights


async def test_the_next_caller_after_the_landing_starts_anew() -> None:
    flights = Flights[str](10)
    for _ in range(2):
        work = Work()
        work.result.set_result("done")
        assert await flights.join("a.com", work) == "done"
        assert work.starts == 1


async def test_names_do_not_wait_for_each_other() -> None:
    flights, slow, quick = Flights[str](10), Work(), Work()
    waiting = asyncio.create_task(flights.join("slow.com", slow))
    await settle()
    quick.result.set_result("quick")
    assert await flights.join("quick.com", quick) == "quick"
    assert not waiting.done()
    slow.result.set_result("slow")
    assert await waiting == "slow"


async def test_a_waiter_that_leaves_cancels_nothing() -> None:
    flights, work = Flights[str](10), Work()
    leaving = asyncio.create_task(flights.join("a.com", work))
    staying = asyncio.create_task(flights.join("a.com", work))
    await settle()
    leaving.cancel()
    await settle()
    assert leaving.cancelled()
    work.result.set_result("done")
    assert await staying == "done"
    assert work.starts == 1


async def test_the_work_goes_on_when_all_waiters_left() -> None:
    flights, work = Flights[str](10), Work()
    only = asyncio.create_task(flights.join("a.com", work))
    await settle()
    only.cancel()
    await settle()
    assert "a.com" in flights
    again = asyncio.create_task(flights.join("a.com", work))
    await settle()
    work.result.set_result("done")
    assert await again == "done"
    assert work.starts == 1


async def test_an_exception_goes_to_all_waiters() -> None:
    flights, work = Flights[str](10), Work()
    callers = [asyncio.create_task(flights.join("a.com", work)) for _ in range(3)]
    await settle()
    work.result.set_exception(ValueError("broken"))
    assert [type(error) for error in await asyncio.gather(*callers, return_exceptions=True)] == [ValueError] * 3


async def test_an_exception_that_nobody_waits_for_is_not_complained_about() -> None:
    complaints: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    flights, work = Flights[str](10), Work()
    only = asyncio.create_task(flights.join("a.com", work))
    await settle()
    only.cancel()
    await settle()
    work.result.set_exception(ValueError("broken"))
    await settle()
    assert "a.com" not in flights
    del only, work
    gc.collect()
    await settle()
    assert complaints == []


async def test_full_counts_the_names_under_way() -> None:
    flights, work = Flights[str](2), Work()
    tasks = [asyncio.create_task(flights.join("a.com", work))]
    await settle()
    assert not flights.full
    tasks += [asyncio.create_task(flights.join(name, work)) for name in ("b.com", "b.com")]
    await settle()
    assert flights.full
    work.result.set_result("done")
    await asyncio.gather(*tasks)
    await settle()
    assert not flights.full


async def test_close_cancels_the_work_and_waits_until_it_ended() -> None:
    flights, work = Flights[str](10), Work()
    waiting = asyncio.create_task(flights.join("a.com", work))
    await settle()
    await flights.close()
    assert work.cancelled
    with pytest.raises(Unavailable, match=r"a\.com: the server is stopping") as caught:
        await waiting
    assert caught.value.retry_after > 0
    await flights.close()


async def test_a_waiter_that_leaves_is_not_told_that_the_server_stops() -> None:
    flights, work = Flights[str](10), Work()
    leaving = asyncio.create_task(flights.join("a.com", work))
    await settle()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    await flights.close()
