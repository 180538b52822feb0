"""dns-01 from end to end: a CA that resolves through a real name server, which the server under test changes."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dns.message
import dns.query
import dns.rdatatype
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.integration.conftest import StartPebble
from tests.support.dns_server import TSIG_NAME as SIGNER
from tests.support.dns_server import TSIG_SECRET, DnsServer
from tests.support.knot import TSIG_ALGORITHM, TSIG_NAME, Knot
from tests.support.pdns import PowerDns
from tests.support.pebble import Pebble
from tests.support.ports import free_port
from tests.support.server import CertServer, acme_config
from tests.support.verify import verified_leaf
from tests.support.waiting import wait_until

WILDCARD = ["*.example.com", "example.com"]
RECORD = "_acme-challenge.example.com"
SECOND = "127.0.0.2"
HERE = ("@ A 127.0.0.1", "www A 127.0.0.1")


@pytest.fixture
def knot(tmp_path: Path) -> Iterator[Knot]:
    with Knot(tmp_path / "knot", zones={"example.com": HERE, "other.test": HERE}) as server:
        yield server


@pytest.fixture
def resolving(start_pebble: StartPebble, knot: Knot, http_port: int) -> Pebble:
    """A CA that resolves through ``knot``."""
    return start_pebble(http_port=http_port, dns_server=knot.server)


def config_for(pebble: Pebble, dns01: dict[str, Any], *, http01: bool = False, **more: Any) -> dict[str, Any]:
    """Configuration that proves by dns-01, as ``dns01`` says, and asks the CA's name server whatever it has to ask."""
    return acme_config(
        pebble.directory_url,
        pebble.ca_bundle,
        dns={"resolvers": [pebble.dns_server]},
        challenges={"http01": http01, "dns01": {"nameservers": [pebble.dns_server], **dns01}},
        **more,
    )


def updates(knot: Knot) -> dict[str, Any]:
    return {"provider": "rfc2136", "options": knot.options}


def txt(port: int, record: str, address: str = "127.0.0.1") -> list[str]:
    """What a name server shows."""
    question = dns.message.make_query(record, dns.rdatatype.TXT)
    answer = dns.query.tcp(question, address, port=port, timeout=60)
    found = [rrset for rrset in answer.answer if rrset.rdtype == dns.rdatatype.TXT]
    return [item.to_text() for rrset in found for item in rrset]


def proven_by(server: CertServer, name: str) -> str:
    return str(json.loads(server.stored()[f"_issued/{name}"])["challenge"])


def assert_nothing_kept(server: CertServer) -> None:
    assert [key for key in server.stored() if key.startswith("_challenges/")] == []


def test_one_certificate_for_a_wildcard_and_its_apex_answers_all_names_below(
    tmp_path: Path, knot: Knot, resolving: Pebble, http_port: int
) -> None:
    config = config_for(resolving, updates(knot), domains=["example.com"], wildcards=["*.example.com"])
    with CertServer(tmp_path / "server", config) as server:
        root = resolving.root_certificate()
        names = ["a.example.com", "b.example.com", "example.com"]
        with ThreadPoolExecutor(len(names)) as pool:
            replies = [*pool.map(server.cert, names)]
        for name, reply in zip(names, replies, strict=True):
            verified_leaf(reply, name, root, names=WILDCARD)
        assert len({reply.json["fingerprint"] for reply in replies}) == 1
        assert server.cert("a.b.example.com").status == 400
        assert txt(knot.port, RECORD) == []
        assert_nothing_kept(server)
        assert proven_by(server, "*.example.com") == "dns-01"
        server.stop()
        server.start()
        assert server.cert("c.example.com").json["fingerprint"] == replies[0].json["fingerprint"]
    assert resolving.order_count() == 1
    assert knot.options["tsig_secret"] not in server.log


def test_both_kinds_of_key_for_a_wildcard_before_anybody_asks(
    tmp_path: Path, knot: Knot, resolving: Pebble, http_port: int
) -> None:
    config = config_for(resolving, updates(knot), domains=["example.com"], wildcards=["*.example.com"], preload=True)
    config["acme"][0]["key_type"] = ["rsa-2048", "ecdsa-p256"]
    with CertServer(tmp_path / "server", config) as server:
        wait_until(lambda: server.stored().keys() >= {"*.example.com", "*.example.com+rsa"})
        root = resolving.root_certificate()
        usual = server.cert("a.example.com")
        assert isinstance(verified_leaf(usual, "a.example.com", root, names=WILDCARD).public_key(), rsa.RSAPublicKey)
        other = server.get("/cert/b.example.com?keytype=ecdsa")
        leaf = verified_leaf(other, "b.example.com", root, names=WILDCARD)
        assert isinstance(leaf.public_key(), ec.EllipticCurvePublicKey)
        assert txt(knot.port, RECORD) == []
        wait_until(lambda: not [key for key in server.stored() if key.startswith("_challenges/")])
    assert resolving.order_count() == 2


def test_dns_01_for_one_zone_and_http_01_for_the_others(
    tmp_path: Path, knot: Knot, resolving: Pebble, http_port: int
) -> None:
    one_zone = {"zones": [{"zone": "example.com", "nameservers": [knot.server], **updates(knot)}], "nameservers": []}
    config = config_for(
        resolving, one_zone, http01=True, domains=["example.com", "other.test"], wildcards=["*.example.com"]
    )
    with CertServer(tmp_path / "server", config, port=http_port) as server:
        root = resolving.root_certificate()
        verified_leaf(server.cert("other.test"), "other.test", root)
        verified_leaf(server.cert("a.example.com"), "a.example.com", root, names=WILDCARD)
        assert proven_by(server, "other.test") == "http-01"
        assert proven_by(server, "*.example.com") == "dns-01"
        assert_nothing_kept(server)
    assert resolving.order_count() == 2


def test_what_http_01_could_not_prove_dns_01_does(
    tmp_path: Path, knot: Knot, resolving: Pebble, http_port: int
) -> None:
    config = config_for(resolving, updates(knot), http01=True, domains=["www.example.com"])
    with CertServer(tmp_path / "server", config) as server:  # nobody listens where the CA looks
        verified_leaf(server.cert("www.example.com"), "www.example.com", resolving.root_certificate())
        (told,) = [line for line in server.log.splitlines() if "event=authority.other_challenge" in line]
        assert "failed=http-01 next=dns-01" in told
        assert proven_by(server, "www.example.com") == "dns-01"
        assert txt(knot.port, "_acme-challenge.www.example.com") == []
    assert resolving.order_count() == 2


def test_names_delegated_into_the_one_zone_that_is_configured_are_proven_there(
    tmp_path: Path, start_pebble: StartPebble, http_port: int
) -> None:
    with PowerDns(tmp_path / "pdns", zones=("example.com", "customer.test", "acme.test")) as pdns:
        pdns.set_record("example.com", RECORD, "CNAME", "site.acme.test.")
        pdns.set_record("customer.test", "_acme-challenge.shop.customer.test", "CNAME", "shop.acme.test.")
        pebble = start_pebble(http_port=http_port, dns_server=f"127.0.0.1:{pdns.port}")
        ours = {"zone": "acme.test", "provider": "lexicon:powerdns", "options": pdns.options}
        dns01 = {"zones": [{**ours, "nameservers": [pebble.dns_server]}], "nameservers": []}
        names = ["example.com", "shop.customer.test", "bare.customer.test"]
        config = config_for(pebble, dns01, domains=names, wildcards=["*.example.com"])
        with CertServer(tmp_path / "server", config) as server:
            root = pebble.root_certificate()
            assert server.command("check-config").returncode == 0
            verified_leaf(server.cert("a.example.com"), "a.example.com", root, names=WILDCARD)
            assert proven_by(server, "*.example.com") == "dns-01"
            verified_leaf(server.cert("shop.customer.test"), "shop.customer.test", root)
            for record in ("site.acme.test", "shop.acme.test"):
                assert f"record={record}" in server.log
                assert txt(pdns.port, record) == []
            assert_nothing_kept(server)
            assert server.cert("bare.customer.test").status == 500
            told = server.command("why", "bare.customer.test").stdout
            assert "configured for _acme-challenge.bare.customer.test, and no CNAME delegates it" in told
    assert pdns.api_key not in server.log
    assert pebble.order_count() == 2


UPDATER = """\
#!/bin/sh
echo "$1 $2" >> {calls}
case $1 in
  present) change="add $2 1 TXT \\"$3\\"" ;;
  cleanup) change="del $2 TXT \\"$3\\"" ;;
esac
printf 'server 127.0.0.1 {port}\\nzone example.com.\\n%s\\nsend\\n' "$change" | knsupdate -y {key}
"""


def test_a_program_of_the_operators_changes_the_zone(
    tmp_path: Path, knot: Knot, resolving: Pebble, http_port: int
) -> None:
    program, calls = tmp_path / "change-zone", tmp_path / "calls"
    key = f"{TSIG_ALGORITHM}:{TSIG_NAME}:{knot.tsig_secret}"
    program.write_text(UPDATER.format(calls=calls, port=knot.port, key=key))
    program.chmod(0o700)
    provider = {"provider": "exec", "options": {"command": str(program)}}
    config = config_for(resolving, provider, domains=["example.com"], wildcards=["*.example.com"])
    with CertServer(tmp_path / "server", config) as server:
        reply = server.cert("a.example.com")
        verified_leaf(reply, "a.example.com", resolving.root_certificate(), names=WILDCARD)
        assert txt(knot.port, RECORD) == []
    assert sorted(calls.read_text().split("\n")) == ["", *[f"cleanup {RECORD}."] * 2, *[f"present {RECORD}."] * 2]


@pytest.fixture
def lagging(tmp_path: Path) -> Iterator[tuple[DnsServer, DnsServer]]:
    """Two name servers, of which the second learns of changes only when it is told: time enough for accidents."""
    port, lines = free_port(), "@ 60 IN NS ns1\nns1 60 IN A 127.0.0.1\n"
    with (
        DnsServer(tmp_path / "1", {"example.com": lines}, port=port) as primary,
        DnsServer(tmp_path / "2", {"example.com": ""}, port=port, address=SECOND, primary=primary) as secondary,
    ):
        yield primary, secondary


def waiting_for_both(pebble: Pebble, primary: DnsServer) -> dict[str, Any]:
    """Configuration that waits until both name servers show a value."""
    options = {"server": pebble.dns_server, "tsig_name": SIGNER, "tsig_secret": TSIG_SECRET}
    both = [pebble.dns_server, f"{SECOND}:{primary.port}"]
    return config_for(pebble, {"provider": "rfc2136", "options": options, "nameservers": both}, domains=["example.com"])


def test_a_record_that_a_crash_left_is_removed_and_its_order_gone_on_with(
    tmp_path: Path, start_pebble: StartPebble, http_port: int, lagging: tuple[DnsServer, DnsServer]
) -> None:
    primary, secondary = lagging
    pebble = start_pebble(http_port=http_port, dns_server=f"127.0.0.1:{primary.port}")
    with CertServer(tmp_path / "server", waiting_for_both(pebble, primary)) as server, ThreadPoolExecutor(1) as pool:
        doomed = pool.submit(server.cert, "example.com")
        wait_until(lambda: primary.txt(RECORD))
        server.kill()
        assert isinstance(doomed.exception(), OSError | http.client.HTTPException)
        assert len(primary.txt(RECORD)) == 1
        server.start()
        wait_until(lambda: primary.txt(RECORD) == [])
        wait_until(lambda: "event=challenge.dns01.left_over_removed" in server.log)
        assert_nothing_kept(server)
        waiting = pool.submit(server.cert, "example.com")
        wait_until(lambda: primary.txt(RECORD))
        secondary.notify("example.com")
        verified_leaf(waiting.result(), "example.com", pebble.root_certificate())
        assert primary.txt(RECORD) == []
    assert pebble.order_count() == 1


def test_a_server_that_is_stopped_leaves_no_record(
    tmp_path: Path, start_pebble: StartPebble, http_port: int, lagging: tuple[DnsServer, DnsServer]
) -> None:
    primary, _ = lagging
    pebble = start_pebble(http_port=http_port, dns_server=f"127.0.0.1:{primary.port}")
    with CertServer(tmp_path / "server", waiting_for_both(pebble, primary)) as server, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(server.cert, "example.com")
        wait_until(lambda: primary.txt(RECORD))
        assert server.stop() == 0
        assert waiting.result().status == 500
        assert primary.txt(RECORD) == []
        assert_nothing_kept(server)
        assert "Traceback" not in server.log


def test_a_wrong_key_for_the_name_server_is_told_in_plain_words(
    tmp_path: Path, knot: Knot, resolving: Pebble, http_port: int
) -> None:
    wrong = {"provider": "rfc2136", "options": {**knot.options, "tsig_secret": TSIG_SECRET}}
    config = config_for(resolving, wrong, domains=["example.com"], wildcards=["*.example.com"])
    with CertServer(tmp_path / "server", config) as server:
        reply = server.cert("a.example.com")
        assert reply.status == 500
        assert int(reply.headers["retry-after"]) >= 1
        told = server.command("why", "a.example.com").stdout
        assert "the certificate for *.example.com, example.com answers it" in told
        assert "check tsig_secret" in told
        assert "tried again not before" in told
        assert "see that the DNS provider's credentials and zone are right" in told
        assert server.cert("b.example.com").status == 500
        assert "event=acme.challenge.cleanup_timeout" not in server.log
    assert resolving.order_count() == 1
    assert TSIG_SECRET not in server.log + told


def test_a_name_server_that_never_shows_the_value_is_named(
    tmp_path: Path, knot: Knot, resolving: Pebble, http_port: int
) -> None:
    with Knot(tmp_path / "behind", zones={"example.com": HERE}) as behind:
        dns01 = {**updates(knot), "nameservers": [knot.server, behind.server], "propagation_timeout": 8}
        with CertServer(tmp_path / "server", config_for(resolving, dns01, domains=["example.com"])) as server:
            assert server.cert("example.com").status == 500
            told = server.command("why", "example.com").stdout
            assert f"127.0.0.1 port {behind.port}): shows no TXT record" in told
            assert f"port {knot.port})" not in told
            assert txt(knot.port, RECORD) == []
            assert_nothing_kept(server)
