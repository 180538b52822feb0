"""Which challenge is answered, by whom, and what is told when the CA doesn't find the answer."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from ssl_cert_server.errors import OrderFailed, ValidationFailed
from tests.support.fake_ca import BASE
from tests.unit.acme.conftest import Bench, RecordingSolver

ALL = ("http-01", "tls-alpn-01", "dns-01")
PERSIST = {"type": "dns-persist-01", "url": f"{BASE}/challenge/9", "status": "pending"}


def solvers(bench: Bench, name: str, *types: str) -> list[RecordingSolver]:
    """Solvers for the name that the CA finds the answers of, the best first."""
    made = [RecordingSolver(kind) for kind in types]
    bench.solvers[name] = made
    known = list(itertools.chain.from_iterable(bench.solvers.values()))

    def answer(name: str, token: str) -> str | None:
        return next((solver.answers[name, token] for solver in known if (name, token) in solver.answers), None)

    bench.ca.responder = answer
    return made


def used(*made: RecordingSolver) -> list[str]:
    """Types of those that presented something; they took it back."""
    assert all(not solver.answers for solver in made)
    return [solver.type for solver in made if solver.events]


@pytest.mark.parametrize("offered", list(itertools.permutations(ALL)))
@pytest.mark.parametrize("preferred", list(itertools.permutations(ALL)))
async def test_the_first_of_the_choice_that_the_ca_offers(
    bench: Bench, offered: tuple[str, ...], preferred: tuple[str, ...]
) -> None:
    bench.ca.challenges = offered
    made = solvers(bench, "a.example", *preferred)
    await bench.obtain("a.example")
    assert used(*made) == [preferred[0]]
    assert bench.ca.authzs[0].answered == preferred[0]


async def test_what_the_ca_does_not_offer_is_passed_over(bench: Bench) -> None:
    bench.ca.challenges = ("dns-01",)
    bench.ca.extra_challenges = [PERSIST]
    made = solvers(bench, "a.example", "dns-persist-01x", "http-01", "dns-01")
    await bench.obtain("a.example")
    assert used(*made) == ["dns-01"]


async def test_a_challenge_without_a_token_is_passed_over(bench: Bench) -> None:
    bench.ca.challenges = ("http-01",)
    bench.ca.extra_challenges = [PERSIST, {"type": "tls-alpn-01", "token": "t", "status": "pending"}]
    made = solvers(bench, "a.example", "dns-persist-01", "tls-alpn-01", "http-01")
    await bench.obtain("a.example")
    assert used(*made) == ["http-01"]


async def test_each_name_has_its_own_choice(bench: Bench) -> None:
    bench.ca.challenges = ALL
    by_http, by_dns, by_alpn = (
        solvers(bench, "a.example", "http-01")[0],
        solvers(bench, "*.a.example", "dns-01")[0],
        solvers(bench, "192.0.2.1", "tls-alpn-01")[0],
    )
    await bench.obtain("a.example", "*.a.example", "192.0.2.1")
    for solver, name in ((by_http, "a.example"), (by_dns, "a.example"), (by_alpn, "192.0.2.1")):
        assert solver.events == [("present", name), ("cleanup", name)]


async def test_apex_and_wildcard_stand_side_by_side_before_either_is_answered(bench: Bench) -> None:
    bench.ca.challenges = ("dns-01",)
    [solver] = solvers(bench, "a.example", "dns-01")
    bench.solvers["*.a.example"] = [solver]
    there: list[tuple[int, int]] = []
    original = bench.ca.responder
    assert original is not None

    def look(name: str, token: str) -> str | None:
        there.append((len(solver.answers), bench.ca.requests.count("challenge")))
        return original(name, token)

    bench.ca.responder = look
    await bench.obtain("a.example", "*.a.example")
    assert [values for values, _ in there] == [2, 2]
    assert [what for what, _ in solver.events] == ["present", "present", "cleanup", "cleanup"]
    tokens = {authz.token for authz in bench.ca.authzs}
    assert len(tokens) == 2


@pytest.mark.parametrize(
    ("types", "words"),
    [
        (("http-01", "tls-alpn-01"), r"offers: dns-01, dns-persist-01; set up for this name: http-01, tls-alpn-01\)"),
        ((), r"offers: dns-01, dns-persist-01; set up for this name: none\)"),
    ],
)
async def test_no_way_to_prove_a_name_says_what_there_is(bench: Bench, types: tuple[str, ...], words: str) -> None:
    bench.ca.challenges, bench.ca.extra_challenges = ALL, [PERSIST]
    solvers(bench, "*.a.example", *types)
    with pytest.raises(OrderFailed, match=rf"^\*\.a\.example: .*{words}") as failure:
        await bench.obtain("*.a.example")
    assert not isinstance(failure.value, ValidationFailed)
    assert "challenge" not in bench.ca.requests


# --- resumed orders


@pytest.mark.parametrize("preferred", list(itertools.permutations(ALL)))
async def test_what_was_answered_before_stays_chosen(bench: Bench, preferred: tuple[str, ...]) -> None:
    bench.ca.challenges, bench.ca.authz_polls = ALL, 2
    number = bench.ca.add_order(["a.example"])
    bench.ca.authzs[0].challenge_status, bench.ca.authzs[0].answered = "processing", "tls-alpn-01"
    made = solvers(bench, "a.example", *preferred)
    await bench.obtain("a.example", order_url=f"{BASE}/order/{number}")
    assert used(*made) == ["tls-alpn-01"]
    assert "challenge" not in bench.ca.requests


async def test_what_was_answered_before_is_left_where_it_is_set_up_no_more(bench: Bench) -> None:
    bench.ca.challenges, bench.ca.authz_polls = ALL, 2
    number = bench.ca.add_order(["a.example"])
    bench.ca.authzs[0].challenge_status, bench.ca.authzs[0].answered = "processing", "tls-alpn-01"
    [solver] = solvers(bench, "a.example", "dns-01")
    await bench.obtain("a.example", order_url=f"{BASE}/order/{number}")
    assert used(solver) == [bench.ca.authzs[0].answered] == ["dns-01"]


# --- answers that the CA didn't find


@pytest.mark.parametrize("name", ["a.example", "*.a.example", "192.0.2.1"])
async def test_an_answer_that_was_not_found_is_told_with_name_type_and_problem(bench: Bench, name: str) -> None:
    bench.ca.challenges = ("dns-01",)
    solvers(bench, name, "dns-01")
    bench.ca.responder = lambda name, token: None
    with pytest.raises(ValidationFailed) as failure:
        await bench.obtain(name)
    assert (failure.value.name, failure.value.challenge, failure.value.problem) == (name, "dns-01", "unauthorized")
    assert str(failure.value).startswith(f"{name}: authorization is invalid: unauthorized: ")


async def resumed(bench: Bench, status: str, *challenges: dict[str, Any]) -> OrderFailed:
    number = bench.ca.add_order(["a.example"])
    bench.ca.authzs[0].status, bench.ca.challenges = status, ()
    bench.ca.extra_challenges, bench.ca.extra_order = list(challenges), {"status": "pending"}
    with pytest.raises(OrderFailed) as failure:
        await bench.obtain("a.example", order_url=f"{BASE}/order/{number}")
    return failure.value


OTHERS = {"type": "dns-01", "error": {"type": "urn:ietf:params:acme:error:dns", "detail": "SERVFAIL"}}
OURS = {"type": "http-01", "error": {"type": "urn:ietf:params:acme:error:connection", "detail": "refused"}}


@pytest.mark.parametrize("challenges", [(OTHERS, OURS), (OURS, OTHERS)])
async def test_of_several_errors_ours_is_told(bench: Bench, challenges: tuple[dict[str, Any], ...]) -> None:
    error = await resumed(bench, "invalid", *challenges)
    assert isinstance(error, ValidationFailed)
    assert (error.challenge, error.problem) == ("http-01", "connection")


async def test_an_earlier_failure_by_another_type_is_told_as_it_was(bench: Bench) -> None:
    error = await resumed(bench, "invalid", {"type": "http-01"}, OTHERS)
    assert isinstance(error, ValidationFailed)
    assert (error.challenge, error.problem) == ("dns-01", "dns")


async def test_a_failure_without_words(bench: Bench) -> None:
    error = await resumed(bench, "invalid", {"type": "http-01"}, {"type": "dns-01", "status": "invalid"})
    assert isinstance(error, ValidationFailed)
    assert (error.challenge, error.problem) == ("dns-01", "about:blank")
    assert "the CA gave no reason" in str(error)


@pytest.mark.parametrize("status", ["deactivated", "expired", "revoked"])
async def test_what_ended_otherwise_is_no_failed_validation(bench: Bench, status: str) -> None:
    assert not isinstance(await resumed(bench, status, OURS), ValidationFailed)
