from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import pytest
from structlog.testing import capture_logs

from ssl_cert_server.dns.resolver import CaaRecord
from ssl_cert_server.errors import LookupFailed, PreflightFailed
from ssl_cert_server.service.preflight import CHECK_DEADLINE, Preflight
from tests.support.loop_time import LoopTime, settle

OURS = "203.0.113.1"
WEB = ("http-01", "tls-alpn-01")
ALL = (*WEB, "dns-01")
FOR_US = CaaRecord(0, "issue", "ca.test")
FOR_OTHERS = CaaRecord(0, "issue", "other.test")

_T = TypeVar("_T")


class Dns:
    """Answers from two tables; an exception there is raised. ``asked`` is every question; none ends while ``mute``."""

    def __init__(self) -> None:
        self.hosts: dict[str, tuple[str, ...] | Exception] = {}
        self.caas: dict[str, list[CaaRecord] | Exception] = {}
        self.asked: list[tuple[str, str]] = []
        self.mute: set[str] = set()
        self.under_way = 0
        self.most_under_way = 0

    async def addresses(self, name: str) -> tuple[str, ...]:
        await self._ask("addresses", name)
        return _given(self.hosts.get(name, ()))

    async def caa(self, name: str) -> list[CaaRecord]:
        await self._ask("caa", name)
        return _given(self.caas.get(name, []))

    async def _ask(self, what: str, name: str) -> None:
        self.asked.append((what, name))
        self.under_way += 1
        self.most_under_way = max(self.under_way, self.most_under_way)
        try:
            await (asyncio.Event().wait() if what in self.mute else asyncio.sleep(0))
        finally:
            self.under_way -= 1


def _given(answer: _T | Exception) -> _T:
    if isinstance(answer, Exception):
        raise answer
    return answer


@pytest.fixture
def dns() -> Dns:
    return Dns()


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    with capture_logs() as logs:
        yield logs


async def check(
    dns: Dns,
    methods: Mapping[str, Sequence[str]],
    *,
    public_ips: Sequence[str] = (OURS,),
    caa: bool = True,
    identities: Sequence[str] = ("ca.test",),
    account_url: str | None = None,
) -> Mapping[str, tuple[str, ...]]:
    preflight = Preflight(dns, public_ips=public_ips, caa=caa)
    return await preflight.check([*methods], methods, caa_identities=identities, account_url=account_url)


async def refusal(dns: Dns, methods: Mapping[str, Sequence[str]], **options: Any) -> str:
    with pytest.raises(PreflightFailed) as caught:
        await check(dns, methods, **options)
    return str(caught.value)


async def test_names_that_lead_to_us_keep_all_their_methods(dns: Dns, logs: list[Any]) -> None:
    dns.hosts = {"a.com": (OURS,), "b.com": (OURS,)}
    dns.caas["b.com"] = [FOR_US]
    assert await check(dns, {"a.com": ALL, "b.com": ("tls-alpn-01",)}) == {"a.com": ALL, "b.com": ("tls-alpn-01",)}
    assert not logs


async def test_a_name_that_leads_elsewhere_is_refused(dns: Dns) -> None:
    dns.hosts["shop.example.com"] = ("198.51.100.7",)
    assert await refusal(dns, {"shop.example.com": WEB}) == (
        "shop.example.com points to 198.51.100.7, which is none of public_ips (203.0.113.1): "
        "its owner has to change the A record; nothing was asked of the CA"
    )


async def test_a_name_that_leads_nowhere_is_refused(dns: Dns) -> None:
    assert (await refusal(dns, {"a.com": WEB})).startswith("a.com has no A or AAAA record: ")


async def test_with_dns_01_a_wrong_address_takes_the_others_alone(dns: Dns, logs: list[Any]) -> None:
    assert await check(dns, {"a.com": ("http-01", "dns-01", "tls-alpn-01")}) == {"a.com": ("dns-01",)}
    (log,) = logs
    assert (log["event"], log["log_level"], log["name"]) == ("preflight.narrowed", "info", "a.com")
    assert log["methods"] == ("dns-01",)
    assert log["reason"].startswith("a.com has no A or AAAA record")


async def test_addresses_are_not_asked_for_where_they_do_not_matter(dns: Dns) -> None:
    await check(dns, {"*.a.com": ("dns-01",), "b.com": ("dns-01",)}, identities=())
    await check(dns, {"c.com": WEB}, public_ips=(), identities=())
    assert dns.asked == []


async def test_ip_addresses_are_looked_up_nowhere(dns: Dns) -> None:
    methods = {OURS: WEB, "2001:db8::7": ("http-01",)}
    assert await check(dns, methods, public_ips=[OURS, "2001:db8::/64"]) == methods
    assert "2001:db8::7 is none of public_ips" in await refusal(dns, methods)
    assert dns.asked == []


# --- CAA


async def test_caa_climbs_to_the_first_name_that_has_records(dns: Dns) -> None:
    dns.caas = {"b.example.com": [FOR_US], "example.com": [FOR_OTHERS]}
    assert await check(dns, {"a.b.example.com": WEB}, public_ips=()) == {"a.b.example.com": WEB}
    assert dns.asked == [("caa", "a.b.example.com"), ("caa", "b.example.com")]


async def test_caa_climbs_to_the_top_level_domain_and_no_further(dns: Dns) -> None:
    assert await check(dns, {"a.example.com": WEB}, public_ips=()) == {"a.example.com": WEB}
    assert dns.asked == [("caa", "a.example.com"), ("caa", "example.com"), ("caa", "com")]


async def test_caa_that_permits_others_refuses(dns: Dns) -> None:
    dns.caas["example.com"] = [FOR_OTHERS]
    assert await refusal(dns, {"shop.example.com": ALL}, public_ips=()) == (
        "the CAA records at example.com, which hold for shop.example.com, permit other.test alone: "
        'their owner has to add issue "ca.test"; nothing was asked of the CA'
    )
    assert (await refusal(dns, {"example.com": ALL}, public_ips=())).startswith("the CAA records at example.com permit")


async def test_a_wildcard_begins_at_its_base_and_goes_by_issuewild(dns: Dns) -> None:
    dns.caas["example.com"] = [FOR_US, CaaRecord(0, "issuewild", ";")]
    message = await refusal(dns, {"*.example.com": ("dns-01",), "example.com": WEB}, public_ips=())
    assert "at example.com, which hold for *.example.com, permit no CA at all" in message
    assert ("caa", "*.example.com") not in dns.asked


async def test_the_account_counts(dns: Dns) -> None:
    dns.caas["a.com"] = [CaaRecord(0, "issue", "ca.test; accounturi=https://ca.test/1")]
    assert await check(dns, {"a.com": WEB}, public_ips=(), account_url="https://ca.test/1")
    assert await check(dns, {"a.com": WEB}, public_ips=(), account_url=None)
    assert "other accounts" in await refusal(dns, {"a.com": WEB}, public_ips=(), account_url="https://ca.test/2")


@pytest.mark.parametrize("options", [{"caa": False}, {"identities": ()}])
async def test_caa_is_not_asked_for_where_it_does_not_matter(dns: Dns, options: dict[str, Any]) -> None:
    dns.caas["a.com"] = [FOR_OTHERS]
    assert await check(dns, {"a.com": WEB}, public_ips=(), **options) == {"a.com": WEB}
    assert dns.asked == []


# --- both


async def test_caa_may_forbid_what_the_addresses_leave(dns: Dns) -> None:
    dns.caas["a.com"] = [CaaRecord(0, "issue", "ca.test; validationmethods=http-01")]
    message = await refusal(dns, {"a.com": ALL})
    assert message.startswith("a.com has no A or AAAA record: ")
    assert "; the CAA records at a.com don't permit dns-01: " in message
    dns.hosts["a.com"] = (OURS,)
    assert await check(dns, {"a.com": ALL}) == {"a.com": ("http-01",)}


async def test_one_bad_name_refuses_the_order_and_the_first_few_are_named(dns: Dns) -> None:
    dns.hosts["good.com"] = (OURS,)
    bad = {f"bad{number}.com": WEB for number in range(5)}
    message = await refusal(dns, {"good.com": WEB, **bad})
    assert "good.com" not in message
    assert [name for name in bad if name in message] == ["bad0.com", "bad1.com", "bad2.com"]
    assert message.endswith("the same or the like holds for 2 more names; nothing was asked of the CA")


# --- trouble of our own


async def test_failed_lookups_refuse_nothing(dns: Dns, logs: list[Any]) -> None:
    dns.hosts["a.com"] = LookupFailed("SERVFAIL for A")
    dns.caas["a.com"] = LookupFailed("SERVFAIL for CAA")
    assert await check(dns, {"a.com": WEB}) == {"a.com": WEB}
    assert {(log["event"], log["log_level"], log["what"], log["reason"]) for log in logs} == {
        ("preflight.skipped", "info", "addresses", "SERVFAIL for A"),
        ("preflight.skipped", "info", "caa", "SERVFAIL for CAA"),
    }


async def test_caa_that_can_not_be_read_on_the_way_up_hides_what_is_above(dns: Dns) -> None:
    dns.caas = {"a.example.com": LookupFailed("SERVFAIL"), "example.com": [FOR_OTHERS]}
    assert await check(dns, {"a.example.com": WEB}, public_ips=()) == {"a.example.com": WEB}


async def test_one_failed_lookup_does_not_skip_the_other_check(dns: Dns) -> None:
    dns.hosts["a.com"] = LookupFailed("SERVFAIL")
    dns.caas["a.com"] = [FOR_OTHERS]
    assert "the CAA records at a.com" in await refusal(dns, {"a.com": WEB})


@pytest.mark.parametrize("mute", ["addresses", "caa"])
async def test_dns_that_does_not_answer_is_given_up_for_all_names_at_once(dns: Dns, logs: list[Any], mute: str) -> None:
    time = LoopTime()
    methods = {f"{number}.com": WEB for number in range(100)}
    dns.hosts = dict.fromkeys(methods, (OURS,))
    dns.mute = {mute}
    checking = asyncio.create_task(check(dns, methods))
    await settle()
    await time.advance(CHECK_DEADLINE - 1)
    assert not checking.done()
    await time.advance(1.1)
    assert await checking == methods
    assert [log["what"] for log in logs].count(mute) == 100
    assert dns.under_way == 0


async def test_questions_side_by_side_are_bounded(dns: Dns) -> None:
    methods = {f"{number}.com": WEB for number in range(100)}
    dns.hosts = dict.fromkeys(methods, (OURS,))
    assert await check(dns, methods) == methods
    assert 1 < dns.most_under_way <= 32


async def test_cancelled_it_leaves_nothing_behind(dns: Dns) -> None:
    dns.mute = {"addresses", "caa"}
    checking = asyncio.create_task(check(dns, {"a.com": WEB, "b.com": WEB}))
    await settle()
    assert dns.under_way == 4
    checking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await checking
    assert dns.under_way == 0
