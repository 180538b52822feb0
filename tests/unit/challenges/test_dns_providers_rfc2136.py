"""What signed updates say when they fail; real servers are asked in the integration tests."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.tsig
import dns.update
import pytest

from ssl_cert_server.challenges.dns01.providers import rfc2136, updates
from ssl_cert_server.challenges.dns01.providers.rfc2136 import Rfc2136Provider
from ssl_cert_server.errors import ChallengeFailed
from tests.support.leaks import told_by

RECORD = "_acme-challenge.www.example.com"
VALUE = "A-" + "z" * 39 + "_1"
_JUNK: Any = dns.message.TrailingJunk
SECRET = "c2VjcmV0LXNlY3JldC1zZWNyZXQ="


async def find_zone(name: str) -> str:
    return "example.com"


def made(deadline: float = 5.0, **options: str) -> Rfc2136Provider:
    base = {"server": "192.0.2.1", "tsig_name": "key", "tsig_secret": SECRET}
    return Rfc2136Provider({**base, **options}, find_zone, deadline=deadline)


Answer = Callable[[dns.update.UpdateMessage], dns.message.Message]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[[Answer], list[dns.update.UpdateMessage]]:
    def script(answer: Answer) -> list[dns.update.UpdateMessage]:
        sent: list[dns.update.UpdateMessage] = []

        async def ask(update: dns.update.UpdateMessage, server: tuple[str, int]) -> dns.message.Message:
            assert server == ("192.0.2.1", 53)
            update.to_wire()  # which signs it
            sent.append(update)
            return answer(update)

        monkeypatch.setattr(updates, "_by_tcp", ask)
        monkeypatch.setattr(updates, "_by_udp", ask)
        return sent

    return script


def answered(
    update: dns.update.UpdateMessage, rcode: dns.rcode.Rcode = dns.rcode.NOERROR, *, error: int = 0, signed: bool = True
) -> dns.message.Message:
    """An answer as it is read from the wire, without having been verified."""
    answer = dns.update.UpdateMessage("example.com.", id=update.id)
    answer.flags |= dns.flags.QR
    answer.set_rcode(rcode)
    if signed:
        answer.request_mac = update.mac or b""
        answer.use_tsig(update.keyring, tsig_error=error)
    return dns.message.from_wire(answer.to_wire(), keyring=False)


async def test_an_update_adds_or_deletes_one_value(
    answers: Callable[[Answer], list[dns.update.UpdateMessage]],
) -> None:
    sent = answers(answered)
    await made().add(RECORD, VALUE)
    await made(ttl="300").add(RECORD, VALUE)
    await made().remove(RECORD, VALUE)
    added, with_ttl, removed = (update.update[0] for update in sent)
    assert str(added) == f'_acme-challenge.www.example.com. 60 IN TXT "{VALUE}"'
    assert with_ttl.ttl == 300
    assert str(removed) == f'{RECORD}. 0 NONE TXT "{VALUE}"'
    assert all(str(update.zone[0].name) == "example.com." for update in sent)
    assert all(update.keyring.algorithm == dns.tsig.HMAC_SHA256 for update in sent)


async def test_algorithms_by_name(answers: Callable[[Answer], list[dns.update.UpdateMessage]]) -> None:
    sent = answers(answered)
    await made(tsig_algorithm="hmac-md5").add(RECORD, VALUE)
    await made(tsig_algorithm="hmac-sha512").add(RECORD, VALUE)
    assert [update.keyring.algorithm for update in sent] == [dns.tsig.HMAC_MD5, dns.tsig.HMAC_SHA512]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            lambda u: answered(u, dns.rcode.REFUSED),
            "it refused (REFUSED); allow the key key to update the zone example",
        ),
        (lambda u: answered(u, dns.rcode.REFUSED, signed=False), "it refused (REFUSED); allow the key"),
        (lambda u: answered(u, dns.rcode.NOTAUTH, signed=False), "it doesn't hold the zone example.com, or doesn't"),
        (lambda u: answered(u, dns.rcode.NOTZONE), "the name is not in its zone example.com (NOTZONE); check zone"),
        (lambda u: answered(u, dns.rcode.NXRRSET), "it said NXRRSET"),
        (lambda u: answered(u, dns.rcode.NOTAUTH, error=dns.rcode.BADKEY), "it doesn't accept the key key with hmac"),
        (lambda u: answered(u, dns.rcode.NOTAUTH, error=dns.rcode.BADSIG), "it has another secret for the key key"),
        (lambda u: answered(u, dns.rcode.NOTAUTH, error=dns.rcode.BADTIME), "its clock and ours differ by minutes"),
        (lambda u: answered(u, signed=False), "its answer is malformed, or not signed"),
        (
            lambda u: answered(dns.update.UpdateMessage("example.com.", id=1, keyring=u.keyring)),
            "its answer is malformed",
        ),
    ],
)
async def test_refusals_in_plain_words(
    answers: Callable[[Answer], list[dns.update.UpdateMessage]], answer: Answer, said: str
) -> None:
    answers(answer)
    with pytest.raises(ChallengeFailed) as raised:
        await made().add(RECORD, VALUE)
    assert str(raised.value).startswith(f"rfc2136: 192.0.2.1 can't add a TXT record {RECORD}: {said}")
    assert SECRET not in told_by(raised.value)


async def test_an_answer_signed_with_another_key_is_nobodys(
    answers: Callable[[Answer], list[dns.update.UpdateMessage]],
) -> None:
    def forged(update: dns.update.UpdateMessage) -> dns.message.Message:
        answer = dns.update.UpdateMessage("example.com.", id=update.id)
        answer.flags |= dns.flags.QR
        answer.request_mac = update.mac or b""
        answer.use_tsig(dns.tsig.Key("key", b"another", dns.tsig.HMAC_SHA256))
        return dns.message.from_wire(answer.to_wire(), keyring=False)

    answers(forged)
    with pytest.raises(ChallengeFailed, match="its answer is not signed as it should be"):
        await made().remove(RECORD, VALUE)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            ConnectionRefusedError(111, "Connect call failed ('192.0.2.1', 53)"),
            "it can't be reached: Connection refused",
        ),
        (socket.gaierror(-2, "Name or service not known"), "it can't be reached: Name or service not known"),
        (EOFError("EOF"), "it closed the connection without an answer"),
        (_JUNK(), "its answer is malformed"),
    ],
)
async def test_ways_not_to_get_an_answer(
    answers: Callable[[Answer], list[dns.update.UpdateMessage]], error: Exception, said: str
) -> None:
    def fail(update: dns.update.UpdateMessage) -> dns.message.Message:
        raise error

    answers(fail)
    with pytest.raises(ChallengeFailed) as raised:
        await made().add(RECORD, VALUE)
    assert said in str(raised.value)


async def test_silence_ends_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    async def silence(*args: object, **kwargs: object) -> dns.message.Message:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(rfc2136, "send_update", silence)
    with pytest.raises(ChallengeFailed, match=r"no answer within 0\.05 s"):
        await made(deadline=0.05).add(RECORD, VALUE)
