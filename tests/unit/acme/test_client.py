"""Directory, nonces, retries and accounts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from josepy.json_util import decode_b64jose

from ssl_cert_server.acme.client import AcmeClient
from ssl_cert_server.acme.jose import AccountKey
from ssl_cert_server.acme.nonces import NoncePool
from ssl_cert_server.errors import AcmeError, CaProblem, CaUnreachable, MalformedResponse
from tests.support.clock import AutoClock
from tests.support.fake_ca import BASE, Cut, FakeCa, problem
from tests.support.loop_time import LoopTime
from tests.unit.acme.conftest import Bench

DAY = 24 * 3600


async def test_a_new_account_has_its_contact(bench: Bench) -> None:
    url = await bench.client.new_account(AccountKey.generate(), ("mailto:a@b.example",))
    assert bench.ca.accounts[-1].url == url
    assert bench.ca.accounts[-1].contact == ["mailto:a@b.example"]


async def test_an_existing_account_is_found(bench: Bench) -> None:
    assert await bench.client.new_account(bench.key) == bench.ca.accounts[0].url
    assert len(bench.ca.accounts) == 1


@pytest.mark.parametrize("location", [None, "", "/account/1"])
async def test_an_account_without_a_url(bench: Bench, location: str | None) -> None:
    headers = {} if location is None else {"Location": location}
    bench.ca.fail("newAccount", httpx2.Response(201, json={}, headers=headers))
    with pytest.raises(MalformedResponse, match="newAccount: the Location header"):
        await bench.client.new_account(bench.key)


# --- the directory


async def test_directory_is_kept_for_a_day(bench: Bench) -> None:
    await bench.client.directory()
    assert bench.ca.requests == []
    bench.clock._elapsed += DAY + 1
    await bench.client.directory()
    assert bench.ca.requests == ["directory"]


async def test_directory_is_asked_for_once_by_many(bench: Bench) -> None:
    bench.clock._elapsed += DAY + 1
    await asyncio.gather(*(bench.client.directory() for _ in range(20)))
    assert bench.ca.requests == ["directory"]


@pytest.mark.parametrize(
    "faults",
    [[httpx2.Response(404)], [httpx2.ConnectError("refused")] * 2, [httpx2.Response(503)]],
    ids=["404", "unreachable", "down"],
)
async def test_directory_is_asked_again_after_a_failure(bench: Bench, faults: list[Any]) -> None:
    bench.ca.fail("newOrder", *faults)
    with pytest.raises(AcmeError):
        await bench.session.new_order(["a.example"])
    bench.ca.requests.clear()
    await bench.session.new_order(["a.example"])
    assert bench.ca.requests[0] == "directory"


async def test_who_waits_for_the_directory_hears_of_its_failure_too() -> None:
    """One after the other each would meet the same."""
    ca = FakeCa()
    ca.fail("directory", *[httpx2.ConnectError("refused")] * 100)
    async with httpx2.AsyncClient(transport=ca) as http:
        client = AcmeClient(ca.directory_url, http, AutoClock())
        outcomes = await asyncio.gather(*(client.directory() for _ in range(20)), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {CaUnreachable}
        assert len(ca.requests) == 4
        ca.faults.clear()
        assert (await client.directory()).new_order == f"{BASE}/newOrder"


async def test_a_directory_that_never_comes_is_given_up_soon() -> None:
    ca, time = FakeCa(hang="directory"), LoopTime()
    async with httpx2.AsyncClient(transport=ca) as http:
        client = AcmeClient(ca.directory_url, http, AutoClock())
        asking = [asyncio.create_task(client.directory()) for _ in range(3)]
        await ca.reached_hang.wait()
        for _ in range(2):
            await time.advance(8)
        for outcome in await asyncio.gather(*asking, return_exceptions=True):
            assert isinstance(outcome, CaUnreachable)
        assert ca.requests == ["directory"] * 2


async def test_a_nonce_that_never_comes_is_given_up_soon() -> None:
    ca, time = FakeCa(hang="newNonce"), LoopTime()
    async with httpx2.AsyncClient(transport=ca) as http:
        client = AcmeClient(ca.directory_url, http, AutoClock())
        url = (await client.directory()).new_order
        asking = asyncio.create_task(client.post(url, b"{}", key=AccountKey.generate(), kid=None, attempts=2))
        await ca.reached_hang.wait()
        for _ in range(2):
            await time.advance(8)
        with pytest.raises(CaUnreachable, match="no answer within 8 s"):
            await asking


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"newNonce": 1}', b"[" * 100_000, b"\xff"])
async def test_directory_that_is_none(body: bytes) -> None:
    ca = FakeCa()
    ca.fail("directory", httpx2.Response(200, content=body))
    async with httpx2.AsyncClient(transport=ca) as http:
        client = AcmeClient(ca.directory_url, http, AutoClock())
        with pytest.raises(MalformedResponse, match="directory: "):
            await client.directory()
        assert (await client.directory()).new_order == f"{BASE}/newOrder"


@pytest.mark.parametrize("status", [403, 429, 500])
@pytest.mark.parametrize("step", ["directory", "newNonce", "newAccount"])
async def test_what_is_said_of_directory_and_nonces_holds_for_everyone(step: str, status: int) -> None:
    ca = FakeCa()
    ca.fail(step, *[problem("serverInternal", status=status) for _ in range(8)])
    async with httpx2.AsyncClient(transport=ca) as http:
        client = AcmeClient(ca.directory_url, http, AutoClock())
        with pytest.raises(CaProblem) as caught:
            await client.new_account(AccountKey.generate())
    assert caught.value.everyone == (step != "newAccount" or status == 429)


# --- nonces


def test_pool_gives_each_nonce_once_and_the_freshest_first() -> None:
    pool = NoncePool()
    for number in range(100):
        pool.put(f"n{number}")
    pool.put(None)
    taken = [pool.take() for _ in range(32)]
    assert taken == [f"n{number}" for number in range(99, 67, -1)]
    assert pool.take() is None


async def test_nonces_come_from_answers(bench: Bench) -> None:
    for _ in range(5):
        await bench.session.new_order(["a.example"])
    assert bench.ca.requests == ["newOrder"] * 5


async def test_bad_nonces_are_replaced_by_those_of_the_same_answer(bench: Bench) -> None:
    bench.ca.bad_nonces = 3
    await bench.session.new_order(["a.example"])
    assert bench.ca.requests == ["newOrder"] * 4
    assert len(set(bench.ca.rejected)) == 3


async def test_a_nonce_storm_slows_down_and_passes(bench: Bench) -> None:
    bench.ca.bad_nonces = 19
    await bench.session.new_order(["a.example"])
    assert len(bench.clock.sleeps) == 17
    assert all(0.1 < sleep < 0.3 for sleep in bench.clock.sleeps)


async def test_a_nonce_storm_without_end_ends(bench: Bench) -> None:
    bench.ca.bad_nonces = 1000
    with pytest.raises(CaProblem) as caught:
        await bench.session.new_order(["a.example"])
    assert caught.value.type == "badNonce"
    assert len(bench.ca.requests) == 20
    assert len(set(bench.ca.rejected)) == 20


async def test_bad_nonce_answer_without_a_nonce(bench: Bench) -> None:
    bench.ca.fail("newOrder", problem("badNonce"), problem("badNonce"))
    await bench.session.new_order(["a.example"])
    assert bench.ca.requests[-2:] == ["newNonce", "newOrder"]


async def test_stale_nonces_after_a_restart_of_the_ca(bench: Bench) -> None:
    await asyncio.gather(*(bench.session.new_order(["a.example"]) for _ in range(10)))
    bench.ca.nonces.clear()
    for _ in range(10):
        await bench.session.new_order(["a.example"])
    assert len(set(bench.ca.rejected)) == len(bench.ca.rejected)


async def test_no_nonce_at_all(bench: Bench) -> None:
    bench.ca.fail("newNonce", httpx2.Response(200))
    async with httpx2.AsyncClient(transport=bench.ca) as http:
        with pytest.raises(MalformedResponse, match="Replay-Nonce"):
            await AcmeClient(bench.ca.directory_url, http, bench.clock).new_account(bench.key)


async def test_many_requests_at_once_do_not_ask_for_many_nonces(bench: Bench) -> None:
    await asyncio.gather(*(bench.session.new_order([f"{number}.example"]) for number in range(200)))
    assert bench.ca.requests.count("newNonce") <= 16
    assert bench.ca.requests.count("newOrder") == 200


# --- failures that pass, and those that don't


@pytest.mark.parametrize(
    "fault",
    [
        lambda: httpx2.ConnectError("refused"),
        lambda: httpx2.ReadTimeout("slow"),
        lambda: httpx2.Response(200, stream=Cut(b"{")),
        lambda: problem("serverInternal", status=500),
        lambda: httpx2.Response(502, content=b"<html>"),
        lambda: httpx2.Response(503, headers={"Retry-After": "2"}),
    ],
)
@pytest.mark.parametrize("step", ["directory", "newNonce", "newAccount"])
async def test_passing_failures_are_retried(step: str, fault: Any) -> None:
    ca, clock = FakeCa(), AutoClock()
    ca.fail(step, fault(), fault())
    async with httpx2.AsyncClient(transport=ca) as http:
        await AcmeClient(ca.directory_url, http, clock).new_account(AccountKey.generate())
    assert ca.requests.count(step) == 3
    assert len(clock.sleeps) == 2


async def test_a_short_retry_after_is_waited_for(bench: Bench) -> None:
    faults = [httpx2.Response(503, headers={"Retry-After": seconds}) for seconds in ("4", "0", "10")]
    bench.ca.fail("newAccount", *faults)
    await bench.client.new_account(bench.key)
    assert bench.clock.sleeps == [4.0, 1.0, 10.0]


async def test_retries_end(bench: Bench) -> None:
    bench.ca.fail("newAccount", *(httpx2.ConnectError("refused") for _ in range(10)))
    with pytest.raises(CaUnreachable, match="refused"):
        await bench.client.new_account(bench.key)
    assert bench.ca.requests.count("newAccount") == 4
    assert bench.clock.sleeps == [0.5, 1.0, 2.0]


@pytest.mark.parametrize(
    "fault",
    [httpx2.ReadError("lost"), httpx2.ReadTimeout("lost"), httpx2.Response(502, content=b"<html>lost</html>")],
    ids=["cut", "silent", "gateway"],
)
async def test_an_order_whose_answer_may_be_lost_is_not_sent_again(bench: Bench, fault: Any) -> None:
    bench.ca.fail("newOrder", fault)
    with pytest.raises(AcmeError):
        await bench.session.new_order(["a.example"])
    assert bench.ca.requests.count("newOrder") == 1


@pytest.mark.parametrize(
    "fault",
    [lambda: httpx2.ConnectError("refused"), lambda: problem("serverInternal", status=500)],
    ids=["not-sent", "refused"],
)
async def test_an_order_that_surely_was_none_is_sent_twice_at_the_most(bench: Bench, fault: Callable[[], Any]) -> None:
    bench.ca.fail("newOrder", *(fault() for _ in range(10)))
    with pytest.raises(AcmeError):
        await bench.session.new_order(["a.example"])
    assert bench.ca.requests.count("newOrder") == 2


@pytest.mark.parametrize("fault", [httpx2.ReadError("lost"), httpx2.Response(502)], ids=["cut", "gateway"])
async def test_a_nonce_that_is_missing_makes_no_order_unclear(bench: Bench, fault: Any) -> None:
    await bench.client.directory()
    bench.client._nonces = NoncePool()
    bench.ca.fail("newNonce", fault)
    await bench.session.new_order(["a.example"])
    assert len(bench.ca.orders) == 1


async def test_delays_are_jittered(bench: Bench) -> None:
    for chance in (0.0, 0.99):
        bench.clock.chance = chance
        bench.ca.fail("newOrder", httpx2.ConnectError("refused"))
        await bench.session.new_order(["a.example"])
    assert bench.clock.sleeps == pytest.approx([0.375, 0.6225])


@pytest.mark.parametrize(
    ("fault", "retry_after"),
    [
        (problem("rateLimited", status=429), None),
        (problem("rateLimited", status=429, Retry_After="1"), 1.0),
        (problem("rateLimited", status=503, Retry_After="3600"), 3600.0),
        (httpx2.Response(503, headers={"Retry-After": "Fri, 15 Jan 2027 09:00:00 GMT"}), 3600.0),
        (problem("malformed"), None),
        (problem("unauthorized", status=403), None),
    ],
)
async def test_others_are_raised_at_once(bench: Bench, fault: httpx2.Response, retry_after: float | None) -> None:
    bench.ca.fail("newOrder", fault)
    with pytest.raises(CaProblem) as caught:
        await bench.session.new_order(["a.example"])
    assert caught.value.retry_after == retry_after
    assert caught.value.status == fault.status_code
    assert bench.ca.requests == ["newOrder"]
    assert bench.clock.sleeps == []


async def test_redirects_and_nonsense_are_not_retried(bench: Bench) -> None:
    for fault in (httpx2.Response(307, headers={"Location": BASE}), httpx2.Response(201, content=b"<html>")):
        bench.ca.fail("newOrder", fault)
        with pytest.raises(MalformedResponse):
            await bench.session.new_order(["a.example"])
    assert bench.ca.requests.count("newOrder") == 2
    assert bench.clock.sleeps == []


async def test_the_url_is_signed_as_it_was_given(bench: Bench) -> None:
    url = f"{BASE}/order/1?a=%7Eb&c=d%2Fe"
    seen: list[httpx2.Request] = []

    def handle(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(200, headers={"Replay-Nonce": "n"}, json={})

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(handle)) as http:
        client = AcmeClient(bench.ca.directory_url, http, bench.clock)
        client._nonces.put("n")
        await client.post(url, b"", key=bench.key, kid="k")
    protected = json.loads(seen[0].content)["protected"]
    assert json.loads(decode_b64jose(protected))["url"] == url


async def test_a_certificate_is_pem_and_nothing_else(bench: Bench) -> None:
    for body in (b"", b"<html>", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        bench.ca.fail("certificate", httpx2.Response(200, content=body))
        with pytest.raises(MalformedResponse, match="certificate: "):
            await bench.session.certificate(f"{BASE}/certificate/0")


async def test_words_between_certificates_are_dropped(bench: Bench) -> None:
    chain = await bench.obtain("a.example")
    bench.ca.orders[0].chain = chain.replace(b"-----BEGIN", b"Subject: someone\r\n-----BEGIN")
    assert await bench.session.certificate(f"{BASE}/certificate/0") == chain
    assert chain.count(b"-----BEGIN CERTIFICATE-----") == 2
