"""What the server says has changed: one worker asks, every worker has it in use within a second, nobody waits."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from tests.integration.openresty.promptness import SECOND, within_a_second
from tests.support.nginx import CheckedNginx, Nginx
from tests.support.stand_in import Answer, Request, StandIn, json_answer, make_pair
from tests.support.visitors import LIMIT, NAME, handshake, quickly, raw_handshake, until, until_served

WORKERS = 3
SERVER_HELLO_DONE = b"\x16\x03\x03\x00\x04\x0e\x00\x00\x00"  # TLS 1.2: a record of it alone


async def everywhere(port: int, der: bytes, name: str = NAME) -> bool:
    """Whether all of many handshakes, which reach every worker, get that certificate."""
    ders = await asyncio.gather(*(handshake(port, name) for _ in range(40)))
    return set(ders) == {der}


async def until_everywhere(port: int, der: bytes, name: str = NAME) -> None:
    async with asyncio.timeout(LIMIT):
        while True:
            if await everywhere(port, der, name):
                return
            await asyncio.sleep(0.05)


async def warm(nginx: Nginx, server: StandIn, *names: str) -> None:
    """Have the server's cursor be known, and then every worker know the names."""
    await handshake(nginx.https_port, "nobody.example.net")  # which isn't allowed, and asked for nowhere
    await until(lambda: any("since=0" in poll.path for poll in server.polls))
    for name in names or (NAME,):
        await handshake(nginx.https_port, name)
        await until_everywhere(nginx.https_port, server.pairs[name].der, name)


async def test_a_changed_certificate_is_in_use_everywhere_within_a_second(prefix: Path) -> None:
    async with (
        StandIn(changes=True) as server,
        CheckedNginx(prefix, backend=server.backend, workers=WORKERS) as nginx,
    ):
        await warm(nginx, server)
        server.requests.clear()

        def change() -> None:
            server.pairs[NAME] = make_pair(NAME)
            server.announce(NAME)

        changes = 0
        for _ in range(3):
            changes += await within_a_second(change, lambda: everywhere(nginx.https_port, server.pairs[NAME].der))
        assert len(server.requests) == changes, "one request for each change, over all workers"
        assert not any("if-none-match" in request.headers for request in server.requests)


@pytest.mark.parametrize("reset", [False, True], ids=["named", "reset"])
async def test_a_chain_that_was_mended_is_in_use_everywhere_with_the_same_leaf(prefix: Path, reset: bool) -> None:
    async with (
        StandIn(changes=True) as server,
        CheckedNginx(prefix, backend=server.backend, workers=WORKERS) as nginx,
    ):
        await warm(nginx, server)
        leaf, intermediate = server.pairs[NAME], make_pair("intermediate")
        server.pairs[NAME] = replace(leaf, cert_pem=leaf.cert_pem + intermediate.cert_pem)
        server.announce(*[] if reset else [NAME], reset=reset)

        async def is_mended() -> bool:
            # In TLS 1.2 the chain is in the clear.
            seen = await asyncio.gather(
                *(raw_handshake(nginx.https_port, NAME.encode(), SERVER_HELLO_DONE) for _ in range(40))
            )
            return all(intermediate.der in each for each in seen)

        async with asyncio.timeout(LIMIT):
            while True:
                if await is_mended():
                    break
                await asyncio.sleep(0.05)
        assert len(server.requests) == 2, "one request for the change, over all workers"


async def test_one_worker_asks_for_all(prefix: Path) -> None:
    async with (
        StandIn(changes=True) as server,
        CheckedNginx(prefix, backend=server.backend, workers=WORKERS) as nginx,
    ):
        await warm(nginx, server)
        assert [poll.path for poll in server.polls] == [
            "/v1/changes?since=&wait=30",
            "/v1/changes?since=0&wait=30",
        ]


async def test_a_change_makes_no_visitor_wait(prefix: Path) -> None:
    async with StandIn(changes=True) as server, CheckedNginx(prefix, backend=server.backend) as nginx:
        await warm(nginx, server)
        old = server.pairs[NAME].der
        release = asyncio.Event()

        async def when_released(request: Request) -> Answer:
            await release.wait()
            return await server.usual(request)

        server.answer = when_released
        server.pairs[NAME] = make_pair(NAME)
        server.requests.clear()
        server.announce(NAME)
        await until(lambda: len(server.requests) == 1)
        for _ in range(20):
            assert await quickly(nginx.https_port) == old
        release.set()
        await until_everywhere(nginx.https_port, server.pairs[NAME].der)
        assert len(server.requests) == 1


async def test_a_change_that_comes_while_the_answer_to_an_earlier_one_is_on_its_way(prefix: Path) -> None:
    async with StandIn(changes=True) as server, CheckedNginx(prefix, backend=server.backend) as nginx:
        await warm(nginx, server)
        release = asyncio.Event()

        async def held_back(request: Request) -> Answer:
            server.answer = server.usual
            answer = await server.usual(request)
            await release.wait()
            return answer

        server.answer = held_back
        server.pairs[NAME] = make_pair(NAME)
        server.requests.clear()
        server.announce(NAME)
        await until(lambda: len(server.requests) == 1)
        server.pairs[NAME] = make_pair(NAME)  # what is on its way is old already
        polls = len(server.polls)
        server.announce(NAME)
        await until(lambda: len(server.polls) > polls)
        release.set()
        await until_everywhere(nginx.https_port, server.pairs[NAME].der)


async def test_a_change_during_a_first_fetch_is_not_lost(prefix: Path) -> None:
    async with StandIn(changes=True) as server, CheckedNginx(prefix, backend=server.backend) as nginx:
        await warm(nginx, server, "other.example.com")
        release = asyncio.Event()

        async def held_back(request: Request) -> Answer:
            server.answer = server.usual
            answer = await server.usual(request)
            await release.wait()
            return answer

        server.answer = held_back
        visitor = asyncio.create_task(handshake(nginx.https_port))
        await until(lambda: NAME in server.pairs)
        server.pairs[NAME] = make_pair(NAME)
        polls = len(server.polls)
        server.announce(NAME)
        await until(lambda: len(server.polls) > polls)
        release.set()
        await visitor
        await until_everywhere(nginx.https_port, server.pairs[NAME].der)


async def test_a_wildcard_stands_for_every_name_one_label_below(prefix: Path) -> None:
    names = ["a.example.com", "b.example.com", "x.a.example.com", "example.com"]
    async with StandIn(changes=True) as server, CheckedNginx(prefix, backend=server.backend) as nginx:
        await warm(nginx, server, *names)
        server.requests.clear()
        for name in names:
            server.pairs[name] = make_pair(name)
        server.announce("*.example.com")
        await asyncio.sleep(SECOND)
        for name in names[:2]:
            await until_everywhere(nginx.https_port, server.pairs[name].der, name)
        assert sorted(server.paths) == ["/cert/a.example.com", "/cert/b.example.com"]


async def test_names_that_nobody_asked_for_are_not_fetched(prefix: Path) -> None:
    async with StandIn(changes=True) as server, CheckedNginx(prefix, backend=server.backend) as nginx:
        await warm(nginx, server)
        server.requests.clear()
        server.announce("a.example.com", "*.example.net", "bad name\r\n", "*.*.example.com", "", NAME.upper())
        await until(lambda: len(server.requests) > 0)
        await asyncio.sleep(SECOND)
        assert server.paths == [f"/cert/{NAME}"]


async def test_a_named_change_ends_a_remembered_failure(prefix: Path) -> None:
    async with StandIn(changes=True) as server, CheckedNginx(prefix, backend=server.backend) as nginx:
        await warm(nginx, server, "other.example.com")

        async def refuse(_: Request) -> Answer:
            return Answer(400)

        server.answer = refuse
        for _ in range(20):
            assert await quickly(nginx.https_port) == nginx.fallback_der
        server.answer = server.usual
        server.pairs[NAME] = make_pair(NAME)
        server.announce(NAME)
        await until_served(nginx.https_port, server.pairs[NAME].der)


async def test_a_changed_name_that_is_no_longer_permitted_goes_out_of_service(prefix: Path) -> None:
    async with StandIn(changes=True) as server, CheckedNginx(prefix, backend=server.backend) as nginx:
        await warm(nginx, server)

        async def refuse(_: Request) -> Answer:
            return Answer(400)

        server.answer = refuse
        server.announce(NAME)
        await until_everywhere(nginx.https_port, nginx.fallback_der)


async def test_a_changed_name_whose_refresh_fails_stays_in_service_and_is_asked_for_again(prefix: Path) -> None:
    async with (
        StandIn(changes=True) as server,
        CheckedNginx(prefix, backend=server.backend, options="failure_ttl = 1,") as nginx,
    ):
        await warm(nginx, server)
        old = server.pairs[NAME].der

        async def fail(_: Request) -> Answer:
            return Answer(500)

        server.answer = fail
        server.requests.clear()
        server.pairs[NAME] = make_pair(NAME)
        server.announce(NAME)
        await until(lambda: len(server.requests) > 0)
        assert await everywhere(nginx.https_port, old)
        answered = asyncio.Event()

        async def answer(request: Request) -> Answer:
            answered.set()
            return await server.usual(request)

        server.answer = answer
        async with asyncio.timeout(LIMIT):
            await answered.wait()  # without a visitor
        server.answer = fail
        await until_everywhere(nginx.https_port, server.pairs[NAME].der)


async def test_a_reset_has_all_looked_at_again_without_a_stampede(prefix: Path) -> None:
    names = [f"n{number}.example.com" for number in range(60)]
    async with StandIn(changes=True) as server:

        async def slowly(request: Request) -> Answer:
            await asyncio.sleep(0.05)
            return await server.usual(request)

        async with CheckedNginx(prefix, backend=server.backend) as nginx:
            await warm(nginx, server)
            for name in names:
                await handshake(nginx.https_port, name)
            server.answer = slowly
            for name in [*names, NAME]:
                server.pairs[name] = make_pair(name)
            server.requests.clear()
            server.most_under_way = 0
            server.announce(reset=True)
            await until(lambda: len(server.requests) == len(names) + 1)
            for name in [*names, NAME]:
                await until_served(nginx.https_port, server.pairs[name].der, name)
            await asyncio.sleep(SECOND)
            assert len(server.requests) == len(names) + 1, "each once, over all workers"
            assert server.most_under_way <= 16


async def test_a_worker_that_asks_and_dies_is_followed_by_another_which_misses_nothing(prefix: Path) -> None:
    async with StandIn(changes=True) as server:
        with Nginx(prefix, backend=server.backend, workers=2) as nginx:  # which logs that they were killed
            await warm(nginx, server)
            killed = nginx.workers()
            for worker in killed:
                os.kill(worker, signal.SIGKILL)
            await until(lambda: len({*nginx.workers()} - {*killed}) == 2)
            server.pairs[NAME] = make_pair(NAME)
            server.announce(NAME)
            polls = len(server.polls)
            await quickly(nginx.https_port)  # the new workers begin with their first handshake
            await until(lambda: len(server.polls) > polls)
            await until_everywhere(nginx.https_port, server.pairs[NAME].der)
            assert server.polls[polls].path == "/v1/changes?since=0&wait=30"


async def test_a_reload_loses_no_change(prefix: Path) -> None:
    async with StandIn(changes=True) as server, CheckedNginx(prefix, backend=server.backend, workers=2) as nginx:
        await warm(nginx, server)
        before = set(nginx.workers())
        nginx.reload()
        server.pairs[NAME] = make_pair(NAME)
        server.announce(NAME)
        await until(lambda: not before & set(nginx.workers()))
        await until_everywhere(nginx.https_port, server.pairs[NAME].der)
        server.pairs[NAME] = make_pair(NAME)
        server.announce(NAME)
        await until_everywhere(nginx.https_port, server.pairs[NAME].der)
        assert all("since=&" not in poll.path for poll in server.polls[1:])


async def test_without_the_endpoint_the_ttl_rules(prefix: Path) -> None:
    async with StandIn() as server:
        server.ttl = 1
        async with CheckedNginx(prefix, backend=server.backend) as nginx:
            await handshake(nginx.https_port)
            server.pairs[NAME] = make_pair(NAME)
            await until_everywhere(nginx.https_port, server.pairs[NAME].der)
            assert len(server.polls) == 1, "it is asked again after a minute"


@pytest.mark.parametrize(
    "answer",
    [
        Answer(500),
        Answer(401),
        Answer(body=b"not JSON"),
        json_answer([]),
        json_answer({"cursor": None, "names": [], "reset": False}),
        json_answer({"cursor": "a\r\nb", "names": [], "reset": False}),
        json_answer({"cursor": "1", "names": "www.example.com", "reset": False}),
        json_answer({"cursor": "1", "names": [], "reset": "yes"}),
        json_answer({"cursor": "1", "names": ["x" * 1000] * 2000, "reset": False}),
        Answer(raw=b"nonsense", close=True),
    ],
    ids=[
        "500",
        "401",
        "not JSON",
        "a list",
        "no cursor",
        "a cursor with CR LF",
        "a string for names",
        "a string for reset",
        "2 MB",
        "not HTTP",
    ],
)
async def test_a_wrong_answer_is_asked_for_again_with_pauses(prefix: Path, answer: Answer) -> None:
    async with StandIn(changes=True) as server:

        async def wrong(_: Request) -> Answer:
            return answer

        server.answer_changes = wrong
        async with CheckedNginx(prefix, backend=server.backend) as nginx:
            der = await handshake(nginx.https_port)
            await until(lambda: len(server.polls) >= 3)
            assert all("since=&" in poll.path for poll in server.polls)
            count = len(server.polls)
            await asyncio.sleep(SECOND)
            assert len(server.polls) <= count + 4
            server.answer_changes = server.usual_changes
            await until(lambda: any("since=0" in poll.path for poll in server.polls))
            assert await quickly(nginx.https_port) == der


async def test_a_server_that_answers_at_once_with_nothing_is_not_asked_without_end(prefix: Path) -> None:
    async with StandIn(changes=True) as server:

        async def at_once(_: Request) -> Answer:
            return json_answer({"cursor": "7", "names": [], "reset": False})

        server.answer_changes = at_once
        async with CheckedNginx(prefix, backend=server.backend) as nginx:
            await handshake(nginx.https_port)
            await until(lambda: len(server.polls) >= 2)
            await asyncio.sleep(3)
            assert len(server.polls) < 30, "without pauses it would be 50 a second"
