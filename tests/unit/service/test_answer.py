from __future__ import annotations

import json
from email.parser import BytesParser

import pytest

from ssl_cert_server.model import Certificate, CertificateType
from ssl_cert_server.service.answer import Answer, make_answer
from tests.support.clock import START, ManualClock
from tests.support.leaves import DAY, HOUR, make_certificate


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def _answer(certificate: Certificate, fresh_until: float | None = None) -> Answer:
    return make_answer(certificate, CertificateType.ACME, certificate.not_after if fresh_until is None else fresh_until)


def test_the_body_has_the_protocols_fields_in_their_order_and_no_other(clock: ManualClock) -> None:
    certificate = make_certificate("a.com")
    answer = make_answer(certificate, CertificateType.MANAGED, certificate.not_after)
    assert answer.holds(clock)
    assert list(json.loads(answer.body).items()) == [
        ("type", 1),
        ("cert", certificate.chain_pem.decode()),
        ("pkey", certificate.key_pem.decode()),
        ("fingerprint", certificate.fingerprint),
        ("expire_at", certificate.not_after),
        ("ttl", 3570),
    ]
    assert answer.ttl == 3570


def test_the_head_is_a_finished_block_of_header_lines(clock: ManualClock) -> None:
    certificate = make_certificate("a.com")
    answer = _answer(certificate)
    assert answer.holds(clock)
    assert answer.head.endswith(b"\r\n\r\n")
    assert answer.head.count(b"\n") == answer.head.count(b"\r\n") == 5
    headers = BytesParser().parsebytes(answer.head)
    assert dict(headers.items()) == {
        "content-type": "application/json",
        "content-length": str(len(answer.body)),
        "etag": f'"{certificate.fingerprint}"',
        "cache-control": "no-store",
    }


async def test_bytes_are_built_anew_as_time_passes(clock: ManualClock) -> None:
    answer = _answer(make_certificate("a.com"))
    assert answer.holds(clock)
    first = answer.body
    clock.chance = 0.0
    await clock.advance(59)
    assert answer.holds(clock)
    assert answer.body is first
    await clock.advance(1)
    assert answer.holds(clock)
    assert json.loads(answer.body)["ttl"] == answer.ttl == 3600


@pytest.mark.parametrize("chance", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("step", [0.25, 0.7, 1.0, 7.0])
async def test_never_promises_past_expiry(clock: ManualClock, chance: float, step: float) -> None:
    clock.chance = chance
    certificate = make_certificate("a.com", end=START + HOUR + 200)
    answer = _answer(certificate)
    while answer.holds(clock):
        left = certificate.not_after - clock.now()
        assert left > 0
        assert json.loads(answer.body)["ttl"] == answer.ttl <= left + 1  # bytes are kept for a second
        if left < 59:
            assert answer.ttl == 0
        clock.jump(step)
    assert clock.now() >= certificate.not_after


def test_does_not_hold_at_expiry_nor_once_it_is_stale(clock: ManualClock) -> None:
    certificate = make_certificate("a.com", end=START + 100)
    answer = _answer(certificate)
    clock.jump(99.5)
    assert answer.holds(clock)
    clock.jump(0.5)
    assert not answer.holds(clock)
    assert not _answer(make_certificate("a.com"), fresh_until=START).holds(clock)


def test_is_given_until_it_is_stale_and_not_a_moment_longer(clock: ManualClock) -> None:
    answer = _answer(make_certificate("a.com"), fresh_until=START + 30)
    assert answer.holds(clock)
    clock.jump(29.9)
    assert answer.holds(clock)
    clock.jump(0.1)
    assert not answer.holds(clock)


def test_a_clock_set_back_does_not_bring_back_bytes_that_promise_too_much(clock: ManualClock) -> None:
    certificate = make_certificate("a.com", end=START + 2 * DAY)
    answer = _answer(certificate)
    assert answer.holds(clock)
    clock.jump(-DAY / 2)
    assert answer.holds(clock)
    assert answer.ttl <= certificate.not_after - clock.now()


def test_the_size_covers_certificate_and_bytes(clock: ManualClock) -> None:
    answer = _answer(make_certificate("a.com"))
    assert answer.holds(clock)
    assert answer.size > len(answer.body) + len(answer.head) + len(answer.certificate.stored)


def test_the_private_key_is_in_no_repr_of_a_certificate() -> None:
    assert "PRIVATE KEY" not in repr(make_certificate("a.com"))


def test_no_private_key_is_in_an_answers_repr(clock: ManualClock) -> None:
    answer = _answer(make_certificate("a.com"))
    assert answer.holds(clock)
    assert "PRIVATE KEY" not in repr(answer)
