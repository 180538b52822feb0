"""A small fleet through its worst weeks: what ``python -m benchmarks.simulation`` shows of a large one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from benchmarks.simulation.scenario import Outcome, Scenario, simulate

from ssl_cert_server.service.budget.limits import Limit

# A hundredth of the fleet; of what Let's Encrypt allows it a thirtieth, over ten hours, so that there is a reserve.
SMALL = Scenario(names=1000, days=45, new_names=4, new_orders=(30, 36_000.0), revoked_on=8, outage=(9, 2), grumpy_on=25)


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return simulate(SMALL)


def test_the_ca_never_has_to_refuse(outcome: Outcome) -> None:
    assert not outcome.ca.refused
    assert not outcome.ca.overdrawn


def test_it_was_not_for_want_of_orders(outcome: Outcome) -> None:
    assert min(sample.new_orders for sample in outcome.samples) < 8, (
        "what renewals leave to the others, and little more"
    )


def test_no_living_certificate_expires(outcome: Outcome) -> None:
    assert outcome.expired == 0
    assert outcome.expired_dead > 0
    assert outcome.renewals > 500


def test_what_is_to_be_replaced_at_once_is_replaced(outcome: Outcome) -> None:
    assert len(outcome.replaced_after) == outcome.revoked > 300


def test_every_living_new_name_has_its_certificate(outcome: Outcome) -> None:
    assert outcome.never_issued == 0
    assert outcome.first_certificates > 80


def test_dead_names_failed_all_the_while(outcome: Outcome) -> None:
    assert outcome.ca.failed > 100


def test_all_of_it_shows_where_the_planning_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Limit, "wait", lambda *_, **__: 0.0)
    assert simulate(replace(SMALL, days=10)).ca.refused["new orders"] > 0
