from __future__ import annotations

import pytest

from ssl_cert_server.model import Certificate, CertificateType
from ssl_cert_server.service.answer import Answer, make_answer
from ssl_cert_server.service.cache import AnswerCache
from tests.support.clock import START, ManualClock
from tests.support.leaves import make_certificate


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def _answer(clock: ManualClock, certificate: Certificate) -> Answer:
    answer = make_answer(certificate, CertificateType.ACME, certificate.not_after)
    assert answer.holds(clock)
    return answer


def _room_for(answers: int, answer: Answer) -> int:
    return answers * (answer.size + len("a.com")) + answer.size // 2


def test_gives_what_was_put(clock: ManualClock) -> None:
    cache = AnswerCache(clock, 1_000_000)
    answer = _answer(clock, make_certificate("a.com"))
    cache.put("a.com", answer)
    assert cache.get("a.com") is answer
    assert cache.get("b.com") is None


def test_the_least_recently_used_goes_first(clock: ManualClock) -> None:
    answer = _answer(clock, make_certificate("a.com"))
    cache = AnswerCache(clock, _room_for(3, answer))
    for name in ("a.com", "b.com", "c.com"):
        cache.put(name, answer)
    assert cache.get("a.com")
    cache.put("d.com", answer)
    assert cache.get("b.com") is None
    assert all(cache.get(name) for name in ("a.com", "c.com", "d.com"))


def test_the_bound_is_in_bytes(clock: ManualClock) -> None:
    small = _answer(clock, make_certificate("a.com"))
    big = _answer(clock, make_certificate(*(f"{number}.example.com" for number in range(300))))
    assert big.size > 3 * small.size
    cache = AnswerCache(clock, _room_for(4, small))
    for name in ("a.com", "b.com", "c.com", "d.com"):
        cache.put(name, small)
    cache.put("big.com", big)
    kept = [name for name in ("a.com", "b.com", "c.com", "d.com") if cache.get(name)]
    assert len(kept) < 2
    assert cache.get("big.com")


def test_putting_again_and_dropping_give_the_room_back(clock: ManualClock) -> None:
    answer = _answer(clock, make_certificate("a.com"))
    cache = AnswerCache(clock, _room_for(2, answer))
    cache.put("b.com", answer)
    for _ in range(10):
        cache.put("a.com", answer)
    assert cache.get("b.com")
    for _ in range(10):
        cache.put("c.com", answer)
        cache.drop("c.com")
    cache.put("b.com", answer)
    assert cache.get("b.com")
    cache.put("d.com", answer)
    assert cache.get("b.com")
    assert cache.get("d.com")


def test_one_answer_over_the_bound_is_kept_alone(clock: ManualClock) -> None:
    cache = AnswerCache(clock, 10)
    answer = _answer(clock, make_certificate("a.com"))
    cache.put("a.com", answer)
    assert cache.get("a.com") is answer
    cache.put("b.com", answer)
    assert cache.get("a.com") is None
    assert cache.get("b.com") is answer


def test_an_expired_answer_is_gone(clock: ManualClock) -> None:
    cache = AnswerCache(clock, 1_000_000)
    cache.put("a.com", _answer(clock, make_certificate("a.com", end=START + 100)))
    clock.jump(100)
    assert cache.get("a.com") is None
    clock.jump(-100)
    assert cache.get("a.com") is None


def test_drop_forgets_one_name(clock: ManualClock) -> None:
    cache = AnswerCache(clock, 1_000_000)
    answer = _answer(clock, make_certificate("a.com"))
    cache.put("a.com", answer)
    cache.put("b.com", answer)
    cache.drop("a.com")
    cache.drop("never-there.com")
    assert cache.get("a.com") is None
    assert cache.get("b.com") is answer


def test_drop_certificate_forgets_every_name_it_answers_and_no_other(clock: ManualClock) -> None:
    cache = AnswerCache(clock, 1_000_000)
    wild, other = make_certificate("*.a.com"), make_certificate("b.com")
    cache.put("1.a.com", make_answer(wild, CertificateType.ACME, 1e12, "*.a.com"))
    cache.put("2.a.com", make_answer(wild, CertificateType.ACME, 1e12, "*.a.com"))
    cache.put("b.com", make_answer(other, CertificateType.ACME, 1e12, "b.com"))
    assert cache.names_of("*.a.com") == {"1.a.com", "2.a.com"}
    cache.drop_certificate("*.a.com")
    assert cache.names_of("*.a.com") == set()
    assert cache.get("1.a.com") is None
    assert cache.get("2.a.com") is None
    assert cache.get("b.com")
