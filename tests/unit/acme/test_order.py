"""Whole orders: straight ones, odd ones, resumed ones and broken ones."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import httpx2
import pytest
from cryptography import x509

from ssl_cert_server.acme.order import obtain
from ssl_cert_server.errors import (
    AcmeError,
    AnswerLost,
    CaProblem,
    CaUnreachable,
    CertServerError,
    MalformedResponse,
    OrderFailed,
    ValidationFailed,
)
from ssl_cert_server.pki.csr import make_csr
from tests.support.clock import ManualClock
from tests.support.fake_ca import BASE, STEPS, Cut, problem
from tests.unit.acme.conftest import LEAF_KEY, Bench

ORDER_STEPS = STEPS[3:]
PERSIST = {"type": "dns-persist-01", "url": f"{BASE}/challenge/9", "status": "pending"}
UNKNOWN = {"type": "quantum-01", "qubits": 7}


def check(chain: bytes, *names: str) -> None:
    """The chain is for our key and these names, leaf first."""
    leaf, *_ = x509.load_pem_x509_certificates(chain)
    assert leaf.public_key() == LEAF_KEY.public_key()
    found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert found.get_values_for_type(x509.DNSName) == list(names)


def cleaned_up(bench: Bench) -> bool:
    presented = sorted(name for what, name in bench.solver.events if what == "present")
    cleaned = sorted(name for what, name in bench.solver.events if what == "cleanup")
    return presented == cleaned and not bench.solver.answers


async def test_a_straight_order(bench: Bench) -> None:
    check(await bench.obtain("a.example"), "a.example")
    expected = ["newOrder", "authz", "challenge", "authz", "order", "finalize", "certificate"]
    assert bench.ca.requests == expected
    assert bench.solver.events == [("present", "a.example"), ("cleanup", "a.example")]
    assert bench.clock.sleeps == [0.3]


async def test_everything_is_presented_before_anything_is_answered(bench: Bench) -> None:
    names = [f"{letter}.example" for letter in "abcde"]
    begun: list[int] = []
    original = bench.solver.present

    async def present(name: str, token: str, key_authorization: str) -> None:
        begun.append(bench.ca.requests.count("challenge"))
        await original(name, token, key_authorization)

    bench.solver.present = present  # type: ignore[method-assign]
    check(await bench.obtain(*names), *names)
    assert begun == [0] * 5
    assert cleaned_up(bench)


async def test_the_order_is_told_before_anything_is_done_for_it(bench: Bench) -> None:
    told: list[tuple[str, list[str]]] = []

    async def on_order(url: str) -> None:
        told.append((url, list(bench.ca.requests)))

    await bench.obtain("a.example", on_order=on_order)
    assert told == [(f"{BASE}/order/0", ["newOrder"])]


async def test_nothing_is_done_for_an_order_that_could_not_be_kept(bench: Bench) -> None:
    async def on_order(url: str) -> None:
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="disk is full"):
        await bench.obtain("a.example", on_order=on_order)
    assert bench.ca.requests == ["newOrder"]


async def test_unknown_challenges_are_passed_over(bench: Bench) -> None:
    bench.ca.extra_challenges = [PERSIST, UNKNOWN]
    check(await bench.obtain("a.example"), "a.example")


async def test_authorizations_that_are_valid_are_reused(bench: Bench) -> None:
    bench.ca.reusable = {"a.example"}
    await bench.obtain("a.example", "b.example")
    assert bench.ca.requests.count("challenge") == 1
    assert bench.solver.events == [("present", "b.example"), ("cleanup", "b.example")]


async def test_an_order_that_is_ready_from_the_start(bench: Bench) -> None:
    bench.ca.reusable = {"a.example"}
    await bench.obtain("a.example")
    assert bench.ca.requests == ["newOrder", "finalize", "certificate"]


# --- waiting


async def test_polling_backs_off_to_three_seconds(bench: Bench) -> None:
    bench.ca.authz_polls = 7
    await bench.obtain("a.example")
    assert bench.clock.sleeps == pytest.approx([0.3, 0.6, 1.2, 2.4, 3.0, 3.0, 3.0])


@pytest.mark.parametrize(("value", "seconds"), [("5", 5.0), ("0", 0.3), ("Fri, 15 Jan 2027 08:00:10 GMT", 9.7)])
async def test_polling_heeds_retry_after(bench: Bench, value: str, seconds: float) -> None:
    bench.ca.authz_polls, bench.ca.retry_after = 2, value
    await bench.obtain("a.example")
    # Not before the first poll: that header came before there was anything to wait for.
    assert bench.clock.sleeps == pytest.approx([0.3, seconds])


async def test_a_processing_order_is_polled_as_the_ca_asks(bench: Bench) -> None:
    bench.ca.processing_polls, bench.ca.retry_after, bench.ca.reusable = 3, "3", {"a.example"}
    check(await bench.obtain("a.example"), "a.example")
    assert bench.ca.requests.count("finalize") == 1
    assert bench.clock.sleeps == [3.0] * 4


async def test_a_long_wait_is_left_to_the_caller(bench: Bench) -> None:
    bench.ca.processing_polls, bench.ca.retry_after, bench.ca.reusable = 1, "3600", {"a.example"}
    with pytest.raises(AcmeError, match="come back in 3600 s") as caught:
        await bench.obtain("a.example")
    assert caught.value.retry_after == 3600
    assert bench.clock.sleeps == []


async def test_polling_ends(bench: Bench) -> None:
    bench.ca.authz_polls = 10_000
    with pytest.raises(AcmeError, match=r"authorization of a\.example: the CA did not finish within 120 s"):
        await bench.obtain("a.example")
    assert bench.clock.monotonic() < 610
    assert cleaned_up(bench)


# --- refusals


async def test_a_failed_validation_tells_the_cas_words_without_secrets(bench: Bench) -> None:
    bench.ca.responder = lambda name, token: "something else"
    with pytest.raises(OrderFailed) as caught:
        await bench.obtain("a.example")
    message = str(caught.value)
    assert message.startswith("a.example: authorization is invalid: unauthorized: http://a.example/.well-known/")
    assert 'got "something else"' in message
    assert bench.ca.authzs[0].token not in message
    assert bench.key.thumbprint() not in message
    assert cleaned_up(bench)
    assert "finalize" not in bench.ca.requests


async def test_one_failed_name_among_many_ends_the_order(bench: Bench) -> None:
    bench.ca.responder = lambda name, token: None if name == "c.example" else bench.solver.answer(name, token)
    with pytest.raises(OrderFailed, match=r"c\.example: authorization is invalid"):
        await bench.obtain("a.example", "b.example", "c.example", "d.example")
    assert cleaned_up(bench)


@pytest.mark.parametrize("status", ["invalid", "deactivated", "expired", "revoked"])
async def test_an_authorization_that_is_over_already(bench: Bench, status: str) -> None:
    number = bench.ca.add_order(["a.example"])
    bench.ca.authzs[0].status = status
    bench.ca.orders[number].status = "pending"
    bench.ca.extra_challenges = [{"type": "dns-01", "error": {"type": "x", "detail": "of another challenge"}}]
    bench.ca.authzs[0].error = {"type": "urn:ietf:params:acme:error:dns", "detail": "no A record"}
    bench.ca.extra_order = {"status": "pending"}
    with pytest.raises(OrderFailed, match=f"a.example: authorization is {status}: dns: no A record"):
        await bench.obtain("a.example", order_url=f"{BASE}/order/{number}")
    assert bench.solver.events == []


async def test_no_challenge_that_we_solve(bench: Bench) -> None:
    bench.ca.extra_challenges = [PERSIST, UNKNOWN]
    with pytest.raises(OrderFailed, match=r"^\*\.a\.example: .*dns-persist-01, quantum-01; .*: http-01\)"):
        await bench.obtain("*.a.example")


async def test_our_challenge_without_a_token(bench: Bench) -> None:
    bench.ca.challenges = ()
    bench.ca.extra_challenges = [{"type": "http-01", "url": f"{BASE}/challenge/0", "status": "pending"}]
    with pytest.raises(MalformedResponse, match=r"a\.example: http-01 has no url or token"):
        await bench.obtain("a.example")


async def test_bad_csr_is_raised_and_the_order_stays_ready(bench: Bench) -> None:
    with pytest.raises(CaProblem) as caught:
        await bench.obtain("a.example", csr_names=["b.example"])
    assert caught.value.type == "badCSR"
    assert bench.ca.requests.count("finalize") == 1
    check(await bench.obtain("a.example", order_url=f"{BASE}/order/0"), "a.example")


@pytest.mark.parametrize("step", ["newOrder", "authz", "challenge", "order", "finalize", "certificate"])
async def test_a_rate_limit_is_raised_at_once_at_every_step(bench: Bench, step: str) -> None:
    bench.ca.fail(step, problem("rateLimited", status=429, Retry_After="7200"))
    with pytest.raises(CaProblem) as caught:
        await bench.obtain("a.example")
    assert (caught.value.type, caught.value.retry_after) == ("rateLimited", 7200)
    assert bench.ca.requests.count(step) == 1
    assert cleaned_up(bench)


# --- resuming


@pytest.mark.parametrize(
    ("status", "step", "nth"),
    [("pending", "authz", 1), ("ready", "finalize", 1), ("processing", "order", 2), ("valid", "certificate", 1)],
)
async def test_resume_in_each_state(bench: Bench, status: str, step: str, nth: int) -> None:
    bench.ca.processing_polls = 2
    urls: list[str] = []

    async def on_order(url: str) -> None:
        urls.append(url)

    bench.ca.hang, bench.ca.hang_from = step, nth
    await _cancelled(bench, bench.obtain("a.example", on_order=on_order))
    bench.ca.hang = None
    bench.ca.requests.clear()
    assert bench.ca.orders[0].status == status
    check(await bench.obtain("a.example", order_url=urls[0]), "a.example")
    assert "newOrder" not in bench.ca.requests
    assert bench.ca.requests.count("finalize") == (1 if status in ("pending", "ready") else 0)
    assert cleaned_up(bench)


async def _cancelled(bench: Bench, order: Coroutine[Any, Any, bytes]) -> None:
    """Cancel the order once the CA has the request that hangs."""
    work = asyncio.ensure_future(order)
    await bench.ca.reached_hang.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work


async def test_resume_after_the_challenge_was_answered(bench: Bench) -> None:
    number = bench.ca.add_order(["a.example"])
    bench.ca.authzs[0].challenge_status = "processing"
    bench.ca.authz_polls = 3
    check(await bench.obtain("a.example", order_url=f"{BASE}/order/{number}"), "a.example")
    assert "challenge" not in bench.ca.requests
    assert cleaned_up(bench)


async def test_resume_of_an_invalid_order_tells_why(bench: Bench) -> None:
    number = bench.ca.add_order(["a.example", "b.example", "c.example", "d.example"])
    bench.ca.orders[number].status = "invalid"
    names = ("a.example", "b.example", "c.example", "d.example")
    with pytest.raises(OrderFailed, match=r"a\.example, b\.example, c\.example and 1 more: .* is invalid: .*no reason"):
        await bench.obtain(*names, order_url=f"{BASE}/order/{number}")
    bench.ca.orders[number].error = {"type": "urn:ietf:params:acme:error:caa", "detail": "CAA forbids"}
    with pytest.raises(OrderFailed, match="order is invalid: caa: CAA forbids"):
        await bench.obtain(*names, order_url=f"{BASE}/order/{number}")


async def test_resume_of_an_order_that_the_ca_forgot(bench: Bench) -> None:
    bench.ca.fail("order", httpx2.Response(404))
    with pytest.raises(CaProblem) as caught:
        await bench.obtain("a.example", order_url=f"{BASE}/order/99")
    assert caught.value.status == 404


# --- finalizing


async def test_order_not_ready_is_looked_at_again(bench: Bench) -> None:
    bench.ca.fail("finalize", problem("orderNotReady", status=403))
    check(await bench.obtain("a.example"), "a.example")
    without_nonces = [step for step in bench.ca.requests if step != "newNonce"]
    assert without_nonces[-5:] == ["order", "finalize", "order", "finalize", "certificate"]


async def test_order_that_is_never_ready_ends(bench: Bench) -> None:
    bench.ca.fail("finalize", *(problem("orderNotReady", status=403) for _ in range(100)))
    with pytest.raises(AcmeError, match="still ready after 10 steps"):
        await bench.obtain("a.example")


async def test_finalize_that_was_received_is_not_sent_again(bench: Bench) -> None:
    bench.ca.drop_after = {"finalize"}
    check(await bench.obtain("a.example"), "a.example")
    assert bench.ca.requests.count("finalize") == 1


async def test_finalize_that_was_not_received_is_sent_again(bench: Bench) -> None:
    bench.ca.fail("finalize", httpx2.ConnectError("refused"), problem("serverInternal", status=500))
    check(await bench.obtain("a.example"), "a.example")
    assert bench.ca.requests.count("finalize") == 3


# --- broken connections


@pytest.mark.parametrize("step", [step for step in ORDER_STEPS if step != "newOrder"])
async def test_an_answer_lost_at_any_later_step_is_survived(bench: Bench, step: str) -> None:
    bench.ca.drop_after = {step}
    check(await bench.obtain("a.example"), "a.example")
    assert cleaned_up(bench)


async def test_a_lost_answer_to_the_order_itself_leads_to_no_second_one(bench: Bench) -> None:
    bench.ca.drop_after = {"newOrder"}
    with pytest.raises(AnswerLost):
        await bench.obtain("a.example")
    assert len(bench.ca.orders) == 1


@pytest.mark.parametrize("step", ORDER_STEPS)
@pytest.mark.parametrize("fault", ["refused", "cut", "html"])
async def test_a_step_that_keeps_failing_ends_in_our_own_exceptions(bench: Bench, step: str, fault: str) -> None:
    make: dict[str, Any] = {
        "refused": lambda: httpx2.ConnectError("refused"),
        "cut": lambda: httpx2.Response(200, stream=Cut(b'{"status": "val')),
        "html": lambda: httpx2.Response(200, content=b"<html>", headers={"Location": f"{BASE}/order/0"}),
    }
    bench.ca.fail(step, *(make[fault]() for _ in range(100)))
    with pytest.raises(AcmeError):
        await bench.obtain("a.example")
    assert cleaned_up(bench)


async def test_a_challenge_that_stays_refused_is_told(bench: Bench) -> None:
    bench.ca.fail("challenge", problem("malformed", "not like this"))
    with pytest.raises(CaProblem, match="not like this"):
        await bench.obtain("a.example")
    assert cleaned_up(bench)


# --- solvers and cancellation


async def test_a_failing_solver_ends_the_order_with_its_own_error(bench: Bench) -> None:
    bench.solver.present_error = CaUnreachable("any of ours")
    with pytest.raises(CertServerError) as caught:
        await bench.obtain("a.example", "b.example")
    assert caught.value is bench.solver.present_error
    assert "challenge" not in bench.ca.requests
    assert cleaned_up(bench)


async def test_errors_keep_their_cause(bench: Bench) -> None:
    bench.ca.fail("authz", *(httpx2.ConnectError("refused") for _ in range(8)))
    with pytest.raises(CaUnreachable) as caught:
        await bench.obtain("a.example", "b.example")
    assert isinstance(caught.value.__cause__, httpx2.ConnectError)


async def test_a_failing_cleanup_spoils_nothing(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.solver.cleanup_error = ValueError("the token is abc")
    names = ("a.example", "b.example")
    check(await bench.obtain(*names), *names)
    assert cleaned_up(bench)
    printed = capsys.readouterr().out
    assert printed.count("acme.challenge.cleanup_failed") == 2
    assert "ValueError" in printed
    assert "abc" not in printed


async def test_a_cleanup_that_hangs_is_left_behind(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ssl_cert_server.acme.authorize.CLEANUP_DEADLINE", 0.02)
    bench.solver.hang_in = "cleanup"
    check(await bench.obtain("a.example"), "a.example")
    assert "acme.challenge.cleanup_timeout" in capsys.readouterr().out


@pytest.mark.parametrize("step", ORDER_STEPS)
async def test_cancelled_at_each_step_all_is_taken_back(bench: Bench, step: str) -> None:
    bench.ca.hang = step
    await _cancelled(bench, bench.obtain("a.example", "b.example"))
    assert cleaned_up(bench)
    assert len(bench.solver.events) == (0 if step in ("newOrder", "authz") else 4)


async def test_cancelled_while_presenting(bench: Bench) -> None:
    bench.solver.hang_in = "present"
    work = asyncio.ensure_future(bench.obtain("a.example", "b.example"))
    await bench.solver.hanging.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert cleaned_up(bench)


async def test_cancelled_while_polling(bench: Bench) -> None:
    bench.ca.authz_polls, clock = 10**9, ManualClock()
    csr = make_csr(LEAF_KEY, ["a.example"])
    work = asyncio.ensure_future(obtain(bench.session, ["a.example"], csr, bench.choice, clock))
    for _ in range(40):
        await clock.advance(0.1)
    assert clock.sleeps == pytest.approx([0.3, 0.6, 1.2, 2.4])
    assert bench.ca.requests.count("authz") == 4
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert cleaned_up(bench)


async def test_cancelled_while_cleaning_up_the_cleanup_ends_first(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssl_cert_server.acme.authorize.CLEANUP_DEADLINE", 0.05)
    bench.solver.hang_in = "cleanup"
    work = asyncio.ensure_future(bench.obtain("a.example"))
    await bench.solver.hanging.wait()
    for _ in range(3):
        work.cancel()
        await asyncio.sleep(0)
        assert not work.done()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert "finalize" not in bench.ca.requests


async def test_a_deadline_around_it_all_works(bench: Bench) -> None:
    bench.ca.hang = "finalize"
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await bench.obtain("a.example")
    assert cleaned_up(bench)


# --- secrets


async def test_no_secret_is_ever_logged_or_raised(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    """Over a good order, a failed one, one with faults, and every repr on the way."""
    bench.ca.extra_challenges = [PERSIST]
    bench.ca.drop_after = {"challenge", "finalize"}
    bench.ca.bad_nonces = 5
    await bench.obtain("a.example")
    bench.ca.responder = lambda name, token: f"{token}.wrong"
    with pytest.raises(OrderFailed) as caught:
        await bench.obtain("b.example")
    authorization = await bench.session.authorization(f"{BASE}/authz/1")
    shown = f"{capsys.readouterr()} {caught.value!r} {authorization!r} {bench.key!r} {bench.session!r}"
    assert "acme.request.retried" in shown
    secrets = [authz.token for authz in bench.ca.authzs] + [bench.key.thumbprint()]
    secrets += bench.key.to_pem().decode().splitlines()[1:-1]
    assert [secret for secret in secrets if secret in shown] == []


@pytest.mark.parametrize(
    "answer", [httpx2.Response(200, text="<html>log in</html>"), httpx2.Response(403, text="<html>no</html>")]
)
async def test_a_challenge_is_answered_again_where_something_else_answered(
    bench: Bench, answer: httpx2.Response
) -> None:
    bench.ca.fail("challenge", answer)
    check(await bench.obtain("a.example"), "a.example")
    assert bench.ca.requests.count("challenge") == 2
    assert len(bench.ca.orders) == 1


async def test_a_challenge_that_nothing_sensible_answers_ends_it(bench: Bench) -> None:
    bench.ca.fail("challenge", *[httpx2.Response(200, text="<html>") for _ in range(9)])
    with pytest.raises(MalformedResponse, match="challenge: the answer is not JSON"):
        await bench.obtain("a.example")
    assert bench.ca.requests.count("challenge") == 3
    assert cleaned_up(bench)


async def test_a_ca_that_leaves_a_failed_challenge_pending_has_found_nothing(bench: Bench) -> None:
    bench.ca.authz_polls = 99
    original = bench.ca._offered

    def offered(number: int) -> list[dict[str, Any]]:
        found = original(number)
        for challenge in found:
            if challenge["status"] == "processing":
                challenge |= {"status": "pending", "error": {"type": "urn:ietf:params:acme:error:connection"}}
        return found

    bench.ca._offered = offered  # type: ignore[method-assign]
    with pytest.raises(ValidationFailed, match=r"a\.example") as caught:
        await bench.obtain("a.example")
    assert (caught.value.challenge, caught.value.problem) == ("http-01", "connection")
    assert cleaned_up(bench)


async def test_a_chain_that_is_cut_off_is_not_taken(bench: Bench) -> None:
    whole = await bench.obtain("a.example")
    cut = whole + whole[: len(whole) // 2]
    bench.ca.fail("certificate", *[httpx2.Response(200, content=cut) for _ in range(9)])
    with pytest.raises(MalformedResponse, match="the chain is cut off"):
        await bench.obtain("b.example")
