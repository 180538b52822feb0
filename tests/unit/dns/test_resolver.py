"""Questions to the DNS, with the answers of servers that exist in this file only."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import dns.update
import pytest

from ssl_cert_server.dns.exchange import Server
from ssl_cert_server.dns.resolver import CaaRecord, Resolver
from ssl_cert_server.errors import LookupFailed
from tests.support.clock import AutoClock

NXDOMAIN = dns.rcode.NXDOMAIN
SERVFAIL = dns.rcode.SERVFAIL
REFUSED = dns.rcode.REFUSED
NOT_DNS = dns.exception.DNSException("it broke")  # type: ignore[no-untyped-call]
ONE = ("192.0.2.53", 53)
OTHER = ("192.0.2.54", 5353)

Script = Mapping[str, str | dns.rcode.Rcode | Exception]


def answer(
    question: dns.message.Message, text: str = "", code: dns.rcode.Rcode = dns.rcode.NOERROR
) -> dns.message.Message:
    """Answer with records as in a zone file, those after a line ``--`` in the authority section."""
    response = dns.message.make_response(question)
    response.set_rcode(code)
    here, _, above = text.partition("--")
    for section, lines in ((response.answer, here), (response.authority, above)):
        for line in filter(None, map(str.strip, lines.splitlines())):
            name, kind, data = line.split(maxsplit=2)
            rrset = dns.rrset.from_text(name, 60, "IN", kind, data)
            known = next(
                (known for known in section if known.match(rrset.name, rrset.rdclass, rrset.rdtype, rrset.covers)), None
            )
            if known is None:
                section.append(rrset)
            else:
                known.update(rrset)  # type: ignore[no-untyped-call]
    return dns.message.from_wire(response.to_wire())


class Servers:
    """What each server answers to ``name TYPE``; what isn't scripted doesn't exist. ``asked`` has every question."""

    def __init__(self, script: Script) -> None:
        self.scripts: dict[Server, Script] = {ONE: script}
        self.asked: list[tuple[Server, str]] = []
        self.recursive: set[bool] = set()

    async def exchange(self, question: dns.message.Message, server: Server) -> dns.message.Message:
        asked = question.question[0]
        text = f"{asked.name.to_text(omit_final_dot=True)} {dns.rdatatype.to_text(asked.rdtype)}"
        self.asked.append((server, text))
        self.recursive.add(bool(question.flags & dns.flags.RD))
        found = self.scripts[server].get(text, self.scripts[server].get("*", NXDOMAIN))
        if isinstance(found, Exception):
            raise found
        return answer(question, found) if isinstance(found, str) else answer(question, code=found)


def resolver(servers: Servers, **options: float) -> Resolver:
    return Resolver(AutoClock(), nameservers=[*servers.scripts], exchange=servers.exchange, **options)  # type: ignore[arg-type]


async def test_addresses_are_ipv4_first_and_follow_aliases() -> None:
    servers = Servers(
        {
            "www.example.com A": "www.example.com. CNAME host.example.net.\n"
            "host.example.net. A 192.0.2.1\nhost.example.net. A 192.0.2.2",
            "www.example.com AAAA": "www.example.com. CNAME host.example.net.\nhost.example.net. AAAA 2001:DB8:0::1",
        }
    )
    addresses = await resolver(servers).addresses("www.example.com")
    assert sorted(addresses[:2]) == ["192.0.2.1", "192.0.2.2"]
    assert addresses[2:] == ("2001:db8::1",)
    assert servers.recursive == {True}


@pytest.mark.parametrize("nothing", [NXDOMAIN, "", "--\nexample.com. SOA ns. root. 1 2 3 4 5"])
async def test_what_does_not_exist_is_empty(nothing: str | dns.rcode.Rcode) -> None:
    asking = resolver(Servers({"*": nothing}))
    assert await asking.addresses("a.example.com") == ()
    assert await asking.cname("a.example.com") is None
    assert await asking.caa("a.example.com") == []
    assert await asking.txt_at(*ONE, "a.example.com") == ()


async def test_names_have_one_spelling() -> None:
    servers = Servers({"a.example.com CNAME": "A.Example.COM. CNAME Target.Example.NET."})
    assert await resolver(servers).cname("A.EXAMPLE.com.") == "target.example.net"


async def test_an_alias_is_followed_one_step_only() -> None:
    servers = Servers({"a.example CNAME": "a.example. CNAME b.example.\nb.example. CNAME c.example."})
    assert await resolver(servers).cname("a.example") == "b.example"


async def test_caa_has_flags_tag_and_value_and_follows_aliases() -> None:
    servers = Servers(
        {
            "www.example.com CAA": "www.example.com. CNAME b.example.\n"
            'b.example. CAA 0 issue "letsencrypt.org; validationmethods=dns-01"\n'
            'b.example. CAA 128 IODEF "mailto:a@b.example"'
        }
    )
    found = await resolver(servers).caa("www.example.com")
    assert sorted(found, key=lambda record: record.flags) == [
        CaaRecord(0, "issue", "letsencrypt.org; validationmethods=dns-01"),
        CaaRecord(128, "iodef", "mailto:a@b.example"),
    ]


async def test_txt_is_asked_of_that_server_without_recursion_and_its_strings_are_joined() -> None:
    servers = Servers({})
    servers.scripts[OTHER] = {
        "_acme-challenge.a.example TXT": '_ACME-challenge.a.example. TXT "one" "two"\n'
        '_acme-challenge.a.example. TXT "three"'
    }
    values = await resolver(servers).txt_at(*OTHER, "_acme-challenge.a.example")
    assert set(values) == {"onetwo", "three"}
    assert {server for server, _ in servers.asked} == {OTHER}
    assert servers.recursive == {False}


SOA = "SOA ns.example. root.example. 1 2 3 4 5"


@pytest.mark.parametrize(
    ("script", "zone"),
    [
        ({"_acme-challenge.a.example.com SOA": f"--\nexample.com. {SOA}"}, "example.com"),
        ({"example.com SOA": f"Example.com. {SOA}"}, "example.com"),
        (
            {"_acme-challenge.a.example.com SOA": f"_acme-challenge.a.example.com. {SOA}"},
            "_acme-challenge.a.example.com",
        ),
        ({"a.example.com SOA": "", "example.com SOA": f"example.com. {SOA}"}, "example.com"),
        (
            # The rest of the answer is about the target, which stands in the zone above by accident.
            {
                "_acme-challenge.a.example.com SOA": f"_acme-challenge.a.example.com. CNAME x.com.\n--\ncom. {SOA}",
                "a.example.com SOA": f"--\na.example.com. {SOA}",
            },
            "a.example.com",
        ),
        ({"_acme-challenge.a.example.com SOA": f"--\nunrelated.net. {SOA}", "com SOA": f"com. {SOA}"}, "com"),
    ],
)
async def test_the_zone_of_a_name_is_found(script: Script, zone: str) -> None:
    assert await resolver(Servers(script)).zone("_acme-challenge.a.example.com") == zone


async def test_a_name_under_no_zone_but_the_root_has_none() -> None:
    servers = Servers({"*": f"--\n. {SOA}"})
    with pytest.raises(LookupFailed, match=r"no DNS zone holds a\.nowhere: is its domain registered"):
        await resolver(servers).zone("a.nowhere")


NS = "example.com. NS ns2.example.net.\nexample.com. NS NS1.example.net."


async def test_name_servers_come_with_all_their_addresses() -> None:
    servers = Servers(
        {
            "example.com NS": NS,
            "ns1.example.net A": "ns1.example.net. A 192.0.2.1",
            "ns1.example.net AAAA": "ns1.example.net. AAAA 2001:db8::1",
            "ns2.example.net A": "ns2.example.net. A 192.0.2.2",
        }
    )
    assert await resolver(servers).authoritative("example.com") == (
        ("ns1.example.net", ("192.0.2.1", "2001:db8::1")),
        ("ns2.example.net", ("192.0.2.2",)),
    )


async def test_a_name_server_that_cannot_be_found_has_no_address_while_another_has() -> None:
    servers = Servers(
        {
            "example.com NS": NS,
            "ns1.example.net A": SERVFAIL,
            "ns1.example.net AAAA": SERVFAIL,
            "ns2.example.net A": "ns2.example.net. A 192.0.2.2",
        }
    )
    assert await resolver(servers).authoritative("example.com") == (
        ("ns1.example.net", ()),
        ("ns2.example.net", ("192.0.2.2",)),
    )


async def test_a_name_server_is_asked_at_the_addresses_that_could_be_found() -> None:
    servers = Servers({"example.com NS": NS, "*": SERVFAIL, "ns2.example.net A": "ns2.example.net. A 192.0.2.2"})
    assert ("ns2.example.net", ("192.0.2.2",)) in await resolver(servers).authoritative("example.com")


async def test_addresses_of_which_half_could_not_be_asked_for_are_no_answer() -> None:
    with pytest.raises(LookupFailed, match="AAAA"):
        await resolver(Servers({"a.example A": "a.example. A 192.0.2.1", "a.example AAAA": SERVFAIL})).addresses(
            "a.example"
        )


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ({"example.com NS": NS, "*": SERVFAIL}, "ns1.example.net"),
        ({"example.com NS": NS}, "no name server with an address: NS ns1.example.net, ns2.example.net"),
        ({}, "no name server with an address: NS none"),
    ],
)
async def test_a_zone_that_nobody_can_ask_fails(script: Script, words: str) -> None:
    with pytest.raises(LookupFailed, match=words):
        await resolver(Servers(script)).authoritative("example.com")


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (SERVFAIL, "192.0.2.53 port 53: SERVFAIL (the zone's name servers are down, or its DNSSEC is broken)"),
        (REFUSED, "REFUSED (it doesn't answer us, or not for this name)"),
        (dns.rcode.NOTAUTH, "NOTAUTH"),
        (TimeoutError(), "no answer"),
        (ConnectionRefusedError(111, "Connection refused"), "no answer (Connection refused)"),
        (OSError("no route"), "no answer (no route)"),
        (EOFError("EOF"), "an answer that is no DNS message (EOFError)"),
        (NOT_DNS, "an answer that is no DNS message (DNSException)"),
    ],
)
async def test_a_failure_names_the_name_the_question_the_server_and_what_it_said(
    failure: dns.rcode.Rcode | Exception, words: str
) -> None:
    servers = Servers({"*": failure})
    with pytest.raises(LookupFailed) as failed:
        await resolver(servers).caa("a.example.com")
    assert str(failed.value).startswith("DNS gave no usable answer for a.example.com CAA: ")
    assert words in str(failed.value)
    assert len(servers.asked) == 3


async def test_the_next_server_is_asked_where_one_fails() -> None:
    servers = Servers({"*": SERVFAIL})
    servers.scripts[OTHER] = {"a.example CNAME": "a.example. CNAME b.example."}
    assert await resolver(servers).cname("a.example") == "b.example"
    assert [server for server, _ in servers.asked] == [ONE, OTHER]


async def test_a_failure_tells_of_every_server() -> None:
    servers = Servers({"*": SERVFAIL})
    servers.scripts[OTHER] = {"*": TimeoutError()}
    with pytest.raises(LookupFailed, match=r"192\.0\.2\.53 port 53: SERVFAIL .*; 192\.0\.2\.54 port 5353: no answer"):
        await resolver(servers).cname("a.example")


async def test_a_server_that_fails_for_a_moment_is_asked_again() -> None:
    servers = Servers({})
    failures = iter([TimeoutError(), OSError("no route")])

    async def failing_at_first(question: dns.message.Message, server: Server) -> dns.message.Message:
        for failure in failures:
            raise failure
        return answer(question, "a.example. CNAME b.example.")

    servers.exchange = failing_at_first  # type: ignore[method-assign]
    clock = AutoClock()
    asking = Resolver(clock, nameservers=[ONE], exchange=failing_at_first)
    assert await asking.cname("a.example") == "b.example"
    assert clock.sleeps == sorted(clock.sleeps)
    assert len(clock.sleeps) == 2


async def test_silence_ends_with_the_deadline() -> None:
    async def silent(question: dns.message.Message, server: Server) -> dns.message.Message:
        await asyncio.Event().wait()
        raise AssertionError

    asking = Resolver(AutoClock(), nameservers=[ONE, OTHER], exchange=silent, deadline=0.01)
    with pytest.raises(LookupFailed, match=r"192\.0\.2\.53 port 53: no answer; 192\.0\.2\.54 port 5353: no answer"):
        await asking.cname("a.example")


async def test_a_cancelled_question_is_cancelled() -> None:
    begun = asyncio.Event()

    async def silent(question: dns.message.Message, server: Server) -> dns.message.Message:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    task = asyncio.create_task(Resolver(AutoClock(), nameservers=[ONE], exchange=silent).addresses("a.example"))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    "records",
    [
        "\n".join(f"a{n}.example. CNAME a{n + 1}.example." for n in range(30)).replace("a0.", "a."),
        "a.example. CNAME a.example.",
    ],
    ids=["endless", "circle"],
)
async def test_a_chain_of_aliases_without_end_is_no_answer(records: str) -> None:
    with pytest.raises(LookupFailed, match=r"answered a\.example CAA with nonsense"):
        await resolver(Servers({"a.example CAA": records})).caa("a.example")


async def test_an_update_in_place_of_an_answer_is_no_answer() -> None:
    async def confused(question: dns.message.Message, server: Server) -> dns.message.Message:
        return dns.update.UpdateMessage("example.com", id=question.id)

    with pytest.raises(LookupFailed, match="an answer to something else"):
        await Resolver(AutoClock(), nameservers=[ONE], exchange=confused).cname("a.example")


@pytest.mark.parametrize("name", ["a..b", "x" * 64 + ".example", ".".join(["abcdefgh"] * 40), "a\\", "\u00fc" * 70])
async def test_a_name_that_dns_cannot_carry_is_told(name: str) -> None:
    with pytest.raises(LookupFailed, match="can't be asked of the DNS"):
        await resolver(Servers({})).cname(name)


async def test_a_machine_without_resolver_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def unconfigured() -> None:
        raise NOT_DNS

    monkeypatch.setattr("dns.resolver.Resolver", unconfigured)
    with pytest.raises(LookupFailed, match="no DNS resolver is configured on this machine: it broke"):
        await Resolver(AutoClock()).cname("a.example")


async def test_the_systems_resolvers_are_asked_where_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    class System:
        nameservers = ("192.0.2.53",)
        port = 53

    monkeypatch.setattr("dns.resolver.Resolver", System)
    servers = Servers({"a.example CNAME": "a.example. CNAME b.example."})
    assert await Resolver(AutoClock(), exchange=servers.exchange).cname("a.example") == "b.example"
    assert servers.asked[0][0] == ONE
