"""What is asked for in an order: names and addresses, a profile, a certificate that is replaced."""

from __future__ import annotations

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from ssl_cert_server.acme.session import _identifier
from ssl_cert_server.errors import AnswerLost, CaProblem
from ssl_cert_server.pki.names import normalize_identifier
from tests.support.fake_ca import problem
from tests.unit.acme.conftest import Bench

ARI_ID = "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"


@pytest.fixture
def offering(bench: Bench) -> Bench:
    """A CA with profiles and ARI."""
    bench.ca.profiles = {"shortlived": "six days"}
    bench.ca.renewal_info = {}
    bench.client._directory = None
    return bench


def asked(bench: Bench) -> dict[str, object]:
    return {key: value for key, value in bench.ca.orders[-1].asked.items() if key != "identifiers"}


# --- identifiers


@given(st.ip_addresses())
def test_addresses_are_ordered_as_such(address: object) -> None:
    name = normalize_identifier(str(address))
    assert _identifier(name) == {"type": "ip", "value": name}


@pytest.mark.parametrize("name", ["a.example", "*.example", "1.example", "localhost", "xn--mnchen-3ya.de"])
def test_names_are_ordered_as_such(name: str) -> None:
    assert _identifier(name) == {"type": "dns", "value": name}


async def test_a_certificate_for_names_and_addresses(bench: Bench) -> None:
    names = ("a.example", "192.0.2.1", "2001:db8::1")
    leaf, *_ = x509.load_pem_x509_certificates(await bench.obtain(*names))
    found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert found.get_values_for_type(x509.DNSName) == ["a.example"]
    assert [str(ip) for ip in found.get_values_for_type(x509.IPAddress)] == ["192.0.2.1", "2001:db8::1"]
    assert sorted(name for what, name in bench.solver.events if what == "present") == sorted(names)


# --- profiles


async def test_an_advertised_profile_is_sent(offering: Bench) -> None:
    await offering.obtain("a.example", profile="shortlived")
    assert asked(offering) == {"profile": "shortlived"}


async def test_an_unadvertised_profile_is_left_out_and_warned_of_once(offering: Bench) -> None:
    with capture_logs() as logs:
        for profile in ("tlsserver", "tlsserver", "classic", "shortlived"):
            await offering.session.new_order(["a.example"], profile=profile)
    assert [order.asked.get("profile") for order in offering.ca.orders] == [None, None, None, "shortlived"]
    warnings = [(log["event"], log["profile"], log["advertised"]) for log in logs]
    assert warnings == [(("acme.profile.unknown"), profile, ["shortlived"]) for profile in ("tlsserver", "classic")]


async def test_no_profile_is_sent_unasked(offering: Bench) -> None:
    await offering.session.new_order(["a.example"])
    assert asked(offering) == {}


async def test_a_profile_that_ended_is_told_and_the_directory_read_again(offering: Bench) -> None:
    await offering.client.directory()
    offering.ca.profiles = {}
    with pytest.raises(CaProblem) as refusal:
        await offering.session.new_order(["a.example"], profile="shortlived")
    assert refusal.value.type == "invalidProfile"
    await offering.session.new_order(["a.example"], profile="shortlived")
    assert asked(offering) == {}


# --- replaces


async def test_what_is_replaced_is_said_where_the_ca_knows_ari(offering: Bench) -> None:
    await offering.obtain("a.example", replaces=ARI_ID)
    assert asked(offering) == {"replaces": ARI_ID}


async def test_it_is_not_said_elsewhere(bench: Bench) -> None:
    await bench.obtain("a.example", replaces=ARI_ID)
    assert asked(bench) == {}
    assert bench.ca.requests.count("newOrder") == 1


async def test_a_certificate_that_is_replaced_already_is_no_reason_not_to_renew(offering: Bench) -> None:
    await offering.session.new_order(["a.example"], replaces=ARI_ID)
    offering.ca.requests.clear()
    with capture_logs() as logs:
        await offering.obtain("a.example", profile="shortlived", replaces=ARI_ID)
    assert asked(offering) == {"profile": "shortlived"}
    assert offering.ca.requests.count("newOrder") == 2
    assert "acme.order.replaces_refused" in [log["event"] for log in logs]


@pytest.mark.parametrize(
    ("type", "status"),
    [
        ("alreadyReplaced", 409),
        ("alreadyReplaced", 400),
        ("conflict", 409),
        ("malformed", 400),
        ("malformed", 404),
        ("unauthorized", 403),
    ],
)
async def test_a_refusal_that_may_be_about_it_is_answered_without_it(offering: Bench, type: str, status: int) -> None:
    offering.ca.fail("newOrder", problem(type, status=status))
    await offering.session.new_order(["a.example"], replaces=ARI_ID)
    assert asked(offering) == {}


async def test_a_ca_that_fails_where_it_is_sent_is_asked_once_without_it(offering: Bench) -> None:
    failure = problem("serverInternal", "no order for the given certificate", status=500)
    offering.ca.fail("newOrder", failure, failure)
    await offering.session.new_order(["a.example"], replaces=ARI_ID)
    assert asked(offering) == {}
    assert offering.ca.requests.count("newOrder") == 3


async def test_a_ca_that_fails_in_any_case_is_asked_no_more_than_that(offering: Bench) -> None:
    offering.ca.fail("newOrder", *[problem("serverInternal", status=500)] * 4)
    with pytest.raises(CaProblem, match="serverInternal"):
        await offering.session.new_order(["a.example"], replaces=ARI_ID)
    assert offering.ca.requests.count("newOrder") == 3


async def test_the_order_is_asked_for_without_it_once_only(offering: Bench) -> None:
    offering.ca.fail("newOrder", problem("malformed", "one"), problem("malformed", "two"))
    with pytest.raises(CaProblem, match="two"):
        await offering.session.new_order(["a.example"], replaces=ARI_ID)
    assert offering.ca.requests.count("newOrder") == 2


@pytest.mark.parametrize(
    ("type", "status"),
    [("rateLimited", 429), ("rejectedIdentifier", 400), ("accountDoesNotExist", 400), ("userActionRequired", 403)],
)
async def test_other_refusals_are_told_at_once(offering: Bench, type: str, status: int) -> None:
    offering.ca.fail("newOrder", problem(type, status=status))
    with pytest.raises(CaProblem, match=type):
        await offering.session.new_order(["a.example"], replaces=ARI_ID)
    assert offering.ca.requests.count("newOrder") == 1


async def test_a_refusal_without_it_is_told_at_once(offering: Bench) -> None:
    offering.ca.fail("newOrder", problem("malformed"))
    with pytest.raises(CaProblem):
        await offering.session.new_order(["a.example"])
    assert offering.ca.requests.count("newOrder") == 1


async def test_an_order_whose_answer_was_lost_replaces_for_the_first_time_only(offering: Bench) -> None:
    offering.ca.drop_after = {"newOrder"}
    with pytest.raises(AnswerLost):
        await offering.obtain("a.example", replaces=ARI_ID)
    assert len(offering.ca.orders) == 1
    await offering.obtain("a.example", replaces=ARI_ID)
    assert [order.asked.get("replaces") for order in offering.ca.orders] == [ARI_ID, None]
