from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvicorn
from structlog.testing import capture_logs
from uvicorn.lifespan.off import LifespanOff

from ssl_cert_server.config.schema import Config
from ssl_cert_server.errors import StartError
from ssl_cert_server.server import run
from ssl_cert_server.server.run import _serve, _Server, _signals, _survive
from tests.support.clock import AutoClock, ManualClock
from tests.support.loop_time import LoopTime, settle

HANDLED = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


async def test_a_background_task_that_fails_is_started_again_with_growing_pauses() -> None:
    clock = AutoClock()
    clock.chance = 0.0
    starts = 0

    async def work() -> None:
        nonlocal starts
        starts += 1
        if starts < 10:
            raise ZeroDivisionError

    await _survive("work", work, clock)
    assert starts == 10
    assert clock.sleeps == [1, 2, 4, 8, 16, 32, 60, 60, 60]


async def test_a_background_task_that_ends_is_not_started_again() -> None:
    clock = AutoClock()
    starts = 0

    async def work() -> None:
        nonlocal starts
        starts += 1

    await _survive("work", work, clock)
    assert starts == 1


async def test_a_background_task_is_cancellable() -> None:
    task = asyncio.create_task(_survive("work", asyncio.Event().wait, AutoClock()))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def _nothing() -> None:
    pass


def _server(
    give_up: Callable[[], Awaitable[None]] = _nothing, stop_polls: Callable[[], None] = lambda: None
) -> _Server:
    config = uvicorn.Config("unused:app", log_config=None, timeout_graceful_shutdown=run._DRAIN)
    server = _Server(config, stop_polls=stop_polls, give_up=give_up)
    server.servers, server.lifespan = [], LifespanOff(config)
    return server


def test_the_first_signal_drains_and_the_second_ends() -> None:
    server = _server()
    server.stop()
    assert (server.should_exit, server.force_exit) == (True, False)
    server.stop()
    assert (server.should_exit, server.force_exit) == (True, True)


class TestDraining:
    """Stopping: what is under way may finish, but not for ever."""

    async def test_requests_that_still_wait_after_ten_seconds_are_given_up_and_so_answered_in_order(self) -> None:
        time, answered = LoopTime(), asyncio.Event()

        async def give_up() -> None:
            answered.set()

        server = _server(give_up)
        request = asyncio.create_task(answered.wait())
        server.server_state.tasks.add(request)  # type: ignore[arg-type]
        request.add_done_callback(server.server_state.tasks.discard)
        stopping = asyncio.create_task(server.shutdown())
        await settle()
        for _ in range(9):
            await time.advance(1)
        assert not answered.is_set()
        await time.advance(1)
        assert answered.is_set()
        await time.advance(0.5)
        await stopping
        assert not request.cancelled()

    async def test_with_nobody_waiting_it_ends_at_once_and_gives_up_nothing(self) -> None:
        time, given_up = LoopTime(), asyncio.Event()

        async def give_up() -> None:
            given_up.set()

        stopping = asyncio.create_task(_server(give_up).shutdown())
        await settle()
        await time.advance(0.5)
        await stopping
        await time.advance(100)
        assert not given_up.is_set()

    async def test_who_waits_for_news_alone_is_let_go_at_once(self) -> None:
        polls = asyncio.Event()
        stopping = asyncio.create_task(_server(stop_polls=polls.set).shutdown())
        await settle()
        assert polls.is_set()
        await stopping

    def test_it_gives_up_before_it_cuts_off(self) -> None:
        assert run._PATIENCE < run._DRAIN


class TestSignals:
    """What SIGTERM, SIGINT and SIGHUP do."""

    @pytest.fixture
    async def handlers(self, monkeypatch: pytest.MonkeyPatch) -> dict[int, Callable[[], None]]:
        """Those that were added to the loop and not removed; no signal is ever sent."""
        handlers: dict[int, Callable[[], None]] = {}
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "add_signal_handler", handlers.__setitem__)
        monkeypatch.setattr(loop, "remove_signal_handler", handlers.pop)
        return handlers

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    async def test_it_stops(self, handlers: dict[int, Callable[[], None]], number: int) -> None:
        server = _server()
        with _signals(server):
            assert set(handlers) == HANDLED
            handlers[number]()
        assert server.should_exit
        assert handlers == {}

    async def test_sighup_of_an_operator_stops_nothing_and_tells_that_there_is_no_reload(
        self, handlers: dict[int, Callable[[], None]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "isatty", lambda _: False)
        server = _server()
        with _signals(server), capture_logs() as logs:
            handlers[signal.SIGHUP]()
        assert not server.should_exit
        assert [(log["event"], log["log_level"]) for log in logs] == [("server.no_reload", "warning")]

    async def test_sighup_of_a_terminal_that_was_closed_stops(
        self, handlers: dict[int, Callable[[], None]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "isatty", lambda _: True)
        server = _server()
        with _signals(server), capture_logs() as logs:
            handlers[signal.SIGHUP]()
        assert server.should_exit
        assert logs == []

    async def test_they_are_handled_before_anybody_can_see_that_the_server_runs(
        self, handlers: dict[int, Callable[[], None]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        at_bind: set[int] = set()

        def refuse(_: object) -> None:
            at_bind.update(handlers)
            raise StartError("the port is taken")

        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(run, "bind", refuse)
        with pytest.raises(StartError):
            await _serve(Config(), ManualClock(), lambda _: None)
        assert at_bind == HANDLED
        assert handlers == {}
