"""``GET /v1/changes``: the long poll as HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx2
import pytest

from ssl_cert_server.http.changes import LONGEST_WAIT
from ssl_cert_server.service.news import NameChanges
from tests.support.loop_time import LoopTime, settle
from tests.unit.http.support import Site


@pytest.fixture
async def site() -> Site:
    site = Site()
    site.usual.news.tell(NameChanges("7"))
    return site


@pytest.fixture
async def client(site: Site) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=site.app), base_url="http://server") as client:
        yield client


async def test_the_first_question_is_answered_with_the_present_cursor(client: httpx2.AsyncClient) -> None:
    for query in ("", "?since=", "?since=&wait=30", "?wait=0"):
        response = await client.get(f"/v1/changes{query}")
        assert response.status_code == 200
        assert response.headers["cache-control"] == "no-store"
        assert response.json() == {"cursor": "7", "names": [], "reset": False}


async def test_who_waits_is_told_the_names(site: Site, client: httpx2.AsyncClient) -> None:
    poll = asyncio.create_task(client.get("/v1/changes?since=7&wait=30"))
    await settle()
    site.usual.news.tell(NameChanges("8", ("a.com", "*.b.com")))
    assert (await poll).json() == {"cursor": "8", "names": ["a.com", "*.b.com"], "reset": False}


async def test_nonsense_for_a_cursor_is_a_reset(client: httpx2.AsyncClient) -> None:
    response = await client.get("/v1/changes", params={"since": "\x00\r\n/é"})
    assert response.json() == {"cursor": "7", "names": [], "reset": True}


@pytest.mark.parametrize("query", ["wait=", "wait=x", "wait=-1", "wait=nan", f"since={'9' * 257}"])
async def test_what_makes_no_sense_is_400_in_one_line(client: httpx2.AsyncClient, query: str) -> None:
    response = await client.get(f"/v1/changes?{query}")
    assert response.status_code == 400
    assert response.text.count("\n") == 1


@pytest.mark.parametrize("wait", ["1000000", "inf", "1e9"])
async def test_nobody_waits_for_longer_than_proxies_do(client: httpx2.AsyncClient, wait: str) -> None:
    time = LoopTime()
    poll = asyncio.create_task(client.get(f"/v1/changes?since=7&wait={wait}"))
    await settle()
    await time.advance(LONGEST_WAIT - 1)
    assert not poll.done()
    await time.advance(2)
    assert (await poll).json() == {"cursor": "7", "names": [], "reset": False}


async def test_storage_that_fails_is_500_without_the_reason(site: Site, client: httpx2.AsyncClient) -> None:
    site.storage.break_down("changes")
    response = await client.get("/v1/changes?since=another")
    assert response.status_code == 500
    assert "disk" not in response.text
