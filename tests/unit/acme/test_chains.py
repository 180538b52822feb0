"""Links to other chains, and the one that is taken."""

from __future__ import annotations

import httpx2
import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from ssl_cert_server.acme.links import alternates
from ssl_cert_server.errors import CaProblem
from tests.support.certs import make_pair
from tests.support.fake_ca import BASE, problem
from tests.unit.acme.conftest import Bench

ASKED = "https://ca.test/certificate/0"
CERTIFICATE = f"{BASE}/certificate/0"


@pytest.mark.parametrize(
    ("headers", "urls"),
    [
        ([], []),
        (['<https://a.test/1>;rel="alternate"'], ["https://a.test/1"]),
        (["<https://a.test/1>; rel=alternate"], ["https://a.test/1"]),
        (["< https://a.test/1 > ; REL = Alternate"], ["https://a.test/1"]),
        (['</1>;rel="alternate", <2>;rel="alternate"'], ["https://ca.test/1", "https://ca.test/certificate/2"]),
        (['</1>;rel="alternate"', '</2>;rel="alternate"'], ["https://ca.test/1", "https://ca.test/2"]),
        (['</1>;rel="alternate"'] * 3, ["https://ca.test/1"]),
        (['</1>;title="a, <b>; c";rel="alternate"'], ["https://ca.test/1"]),
        (['</1>;title="say \\"hi\\", all";rel="up alternate"'], ["https://ca.test/1"]),
        (['</1?a=1,2;3>;rel="alternate"'], ["https://ca.test/1?a=1,2;3"]),
        (['</0>;rel="index", </1>;rel="alternate"'], ["https://ca.test/1"]),
        (['</1>;rel="up";rel="alternate"'], []),
        (['</1>;rel="alternates"', "</1>;rel", "</1>", "</1>;prel=alternate", "/1;rel=alternate"], []),
        (["<ftp://a.test/1>;rel=alternate", "<data:,x>;rel=alternate", "<http://[>;rel=alternate"], []),
        (['</1>;title="never closed;rel="alternate"', "<;rel=alternate", "", ",,,", "<>"], []),
    ],
)
def test_links(headers: list[str], urls: list[str]) -> None:
    assert list(alternates(headers, ASKED)) == urls


def test_ten_alternates_are_enough() -> None:
    many = [f"</{number}>;rel=alternate" for number in range(100)]
    assert len(alternates(many, ASKED)) == len(alternates([", ".join(many)], ASKED)) == 10


@given(st.lists(st.text(alphabet='<>";,= \\relatnREL/:htps.', max_size=200)))
def test_whatever_a_header_says_only_http_urls_come_out(headers: list[str]) -> None:
    found = alternates(headers, ASKED)
    assert all(url.startswith(("https://", "http://")) for url in found)
    assert len(found) <= 10


def test_an_endless_header_is_not_read_to_its_end() -> None:
    link = "</1>;rel=alternate"
    assert alternates([" " * 4000 + link], ASKED)
    assert not alternates([" " * 4096 + link], ASKED)


# --- which chain


def top(chain: bytes) -> str:
    return x509.load_pem_x509_certificates(chain)[-1].issuer.rfc4514_string().removeprefix("CN=")


@pytest.fixture
async def issued(bench: Bench) -> Bench:
    bench.ca.alternates = ("Old Root", "Older Root")
    await bench.obtain("a.example")
    bench.ca.requests.clear()
    return bench


async def test_without_a_preference_the_cas_own_is_taken(issued: Bench) -> None:
    assert top(await issued.session.certificate(CERTIFICATE)) == "Fake CA"
    assert issued.ca.requests == ["certificate"]


async def test_where_the_cas_own_fits_no_other_is_fetched(issued: Bench) -> None:
    assert top(await issued.session.certificate(CERTIFICATE, preferred_chain="Fake CA")) == "Fake CA"
    assert issued.ca.requests == ["certificate"]


@pytest.mark.parametrize(("root", "fetched"), [("Old Root", 2), ("Older Root", 3)])
async def test_the_preferred_chain_is_looked_for(issued: Bench, root: str, fetched: int) -> None:
    chain = await issued.session.certificate(CERTIFICATE, preferred_chain=root)
    assert top(chain) == root
    assert chain.startswith(issued.ca.orders[0].leaf)
    assert issued.ca.requests == ["certificate"] * fetched


async def test_obtain_takes_the_preferred_chain(bench: Bench) -> None:
    bench.ca.alternates = ("Old Root",)
    assert top(await bench.obtain("a.example", preferred_chain="Old Root")) == "Old Root"


async def test_what_is_not_offered_is_told_once(issued: Bench) -> None:
    with capture_logs() as logs:
        assert top(await issued.session.certificate(CERTIFICATE, preferred_chain="Nobody")) == "Fake CA"
    [log] = logs
    assert (log["event"], log["log_level"], log["preferred"]) == ("acme.chain.not_offered", "info", "Nobody")
    assert log["offered"] == ["Fake CA", "Old Root", "Older Root"]


async def test_a_chain_that_ends_at_the_issuer_goes_before_one_through_it(issued: Bench) -> None:
    """Both alternates' leaves are issued by Fake CA; so is the default's topmost."""
    root = make_pair()
    issued.ca.orders[0].chain = issued.ca.orders[0].leaf + root.pem
    chain = await issued.session.certificate(CERTIFICATE, preferred_chain="Fake CA")
    assert top(chain) == "test", "no chain ends there: the first that leads through it is taken"
    issued.ca.alternates = ("Old Root", "Fake CA")
    assert top(await issued.session.certificate(CERTIFICATE, preferred_chain="Fake CA")) == "Fake CA"


@pytest.mark.parametrize(
    "fault",
    [
        problem("serverInternal", status=500, Retry_After="3600"),
        httpx2.Response(200, content=b"<html>"),
        httpx2.Response(200, content=make_pair().pem),
    ],
    ids=["refused", "no PEM", "another leaf"],
)
async def test_a_broken_alternate_spoils_nothing(issued: Bench, fault: httpx2.Response) -> None:
    issued.ca.alternates = ("Old Root",)
    issued.ca.fail("certificate", httpx2.Response(200, content=issued.ca.orders[0].chain, headers=_link()), fault)
    assert top(await issued.session.certificate(CERTIFICATE, preferred_chain="Old Root")) == "Fake CA"


def _link() -> dict[str, str]:
    return {"Link": f"<{CERTIFICATE}/0>;rel=alternate"}


async def test_the_first_chain_is_needed(issued: Bench) -> None:
    issued.ca.fail("certificate", problem("malformed", status=404))
    with pytest.raises(CaProblem):
        await issued.session.certificate(CERTIFICATE, preferred_chain="Old Root")
