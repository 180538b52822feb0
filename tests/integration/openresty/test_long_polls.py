"""The question for changes, where there are several servers: who is asked, and what its end says of a server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.integration.openresty.conftest import is_up, servers
from tests.support.nginx import CheckedNginx
from tests.support.stand_in import Answer, Request, StandIn, make_pair
from tests.support.visitors import NAME, handshake, quickly, until, until_served


async def test_a_poll_is_held_by_one_server_for_all_of_its_time_and_says_nothing_of_its_health(prefix: Path) -> None:
    async with (
        StandIn(changes=True) as first,
        StandIn(changes=True) as second,
        CheckedNginx(prefix, backend="", options=servers(first, second), workers=2) as nginx,
    ):
        assert await quickly(nginx.https_port) == first.pairs[NAME].der
        async with asyncio.timeout(90):
            while len(first.polls) < 3:  # the second is held for 30 s
                assert await is_up(nginx) == [True, True]
                await asyncio.sleep(0.2)
        assert second.polls == []
        assert "/v1/changes: " not in nginx.error_log
        assert first.probes == second.probes == []


HELD_UP = [Answer(504), Answer(raw=b"", close=True)]


@pytest.mark.parametrize("answer", HELD_UP, ids=["504", "closed"])
async def test_a_poll_that_a_proxy_ends_takes_no_server_out_of_service(prefix: Path, answer: Answer) -> None:
    async with StandIn(changes=True) as first, StandIn(changes=True) as second:

        async def end(_: Request) -> Answer:
            return answer

        first.answer_changes = second.answer_changes = end
        async with CheckedNginx(prefix, backend="", options=servers(first, second), workers=2) as nginx:
            asked = 0
            async with asyncio.timeout(60):
                while len(first.polls) < 3 or len(second.polls) < 3:
                    name = f"n{asked}.example.com"
                    assert await handshake(nginx.https_port, name) == first.pairs[name].der
                    assert await is_up(nginx) == [True, True]
                    asked += 1
                    await asyncio.sleep(0.05)
            assert first.probes, "it is looked at"


async def test_a_server_that_fails_at_changes_alone_leaves_them_to_the_next(prefix: Path) -> None:
    async with StandIn(changes=True) as first, StandIn(changes=True) as second:

        async def fail(_: Request) -> Answer:
            return Answer(500)

        first.answer_changes = fail
        async with CheckedNginx(prefix, backend="", options=servers(first, second), workers=2) as nginx:
            assert await quickly(nginx.https_port) == first.pairs[NAME].der
            await until(lambda: any("since=0" in poll.path for poll in second.polls))
            assert len(first.polls) == 1
            first.pairs[NAME] = make_pair(NAME)
            second.announce(NAME)
            await until_served(nginx.https_port, first.pairs[NAME].der)


async def test_one_of_two_is_dead_and_the_other_is_never_taken_for_it(prefix: Path) -> None:
    async with StandIn(changes=True) as first, StandIn() as second:
        options = servers(first, second)
        await second.stop()
        async with CheckedNginx(prefix, backend="", options=options, workers=2) as nginx:
            asked = 0
            async with asyncio.timeout(90):
                while len(first.polls) < 3:
                    name = f"n{asked}.example.com"
                    assert await handshake(nginx.https_port, name) == first.pairs[name].der
                    asked += 1
                    await asyncio.sleep(0.2)
