"""The commands an operator gives beside a running server: why, account, revoke, storage remove."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509

from tests.integration.conftest import StartPebble
from tests.support.ask_endpoint import AskEndpoint
from tests.support.new_storage import make_storage
from tests.support.pebble import Pebble
from tests.support.server import CertServer, Reply, acme_config, ca_entry, cas_config, loaded_dice
from tests.support.verify import verified_leaf
from tests.support.waiting import wait_until

KEY_COMPROMISE = 1


@pytest.fixture
def config(pebble: Pebble) -> dict[str, object]:
    return acme_config(pebble.directory_url, pebble.ca_bundle, re_patterns=[r".+\.example\.com"])


def leaf_of(reply: Reply) -> x509.Certificate:
    return x509.load_pem_x509_certificate(reply.json["cert"].encode())


# --- why


def test_why_a_name_is_answered_as_it_is(tmp_path: Path, start_pebble: StartPebble, http_port: int) -> None:
    pebble = start_pebble(http_port=http_port, blocklist=["blocked.example.com"])
    names = ["good.example.com", "unresolved.example.com", "blocked.example.com", "never-asked.example.com"]
    config = acme_config(pebble.directory_url, pebble.ca_bundle, domains=names)
    pebble.add_servfail("unresolved.example.com")

    def why(name: str) -> str:
        done = server.command("why", name)
        assert done.returncode == 0, done.stderr
        return done.stdout

    with CertServer(tmp_path / "server", config, port=http_port) as server:
        assert [server.cert(name).status for name in names[:3]] == [200, 500, 500]
        good = why("GOOD.example.com.")
        assert "rule: domains lists it" in good
        assert "stored: under good.example.com, for good.example.com" in good
        assert f"issued by {pebble.directory_url}, control proven by http-01" in good
        assert "failed:" not in good
        unresolved = why("unresolved.example.com")
        assert "stored: nothing under unresolved.example.com" in unresolved
        assert "1 in a row" in unresolved
        assert "could not resolve" in unresolved
        assert "next:   tried again not before" in unresolved
        assert "do:     the CA could not connect to the name: see that its addresses are right" in unresolved
        blocked = why("blocked.example.com")
        assert "rejectedIdentifier" in blocked
        assert "do:     the CA never issues for this name" in blocked
        never_asked = why("never-asked.example.com")
        assert "next:   the next request has it issued" in never_asked
        assert "failed:" not in never_asked
        unpermitted = why("other.example.com")
        assert "rule: none" in unpermitted
        assert "add it to domains, wildcards or re_patterns" in unpermitted


def test_why_tells_of_a_wildcard(tmp_path: Path) -> None:
    dns01 = {"provider": "exec", "options": {"command": "/bin/true"}}
    server = CertServer(tmp_path / "server", {"wildcards": ["*.example.com"], "challenges": {"dns01": dns01}})
    make_storage(server.directory)
    told = server.command("why", "a.example.com").stdout
    assert "the certificate for *.example.com answers it (wildcards)" in told
    assert "stored: nothing under *.example.com" in told
    told = server.command("why", "*.Example.com.").stdout
    assert told.startswith("*.example.com\n  rule: wildcards lists it")
    assert "stored: nothing under *.example.com" in told
    assert "rule: none (*.other.com is none of wildcards)" in server.command("why", "*.other.com").stdout
    assert "invalid host name" in server.command("why", "*.*.example.com").stderr
    refused = server.command("revoke", "*.example.com", "--yes")
    assert (refused.returncode, "*.example.com has no stored certificate" in refused.stderr) == (1, True)
    assert "rule: none" in server.command("why", "example.com").stdout


def test_why_refuses_what_is_no_name(tmp_path: Path) -> None:
    done = CertServer(tmp_path / "server").command("why", "no name")
    assert done.returncode == 2
    assert "invalid host name" in done.stderr


# --- account


def test_issuing_goes_on_after_the_accounts_key_was_changed_and_after_it_was_deactivated(
    tmp_path: Path, pebble: Pebble, http_port: int, config: dict[str, object]
) -> None:
    def account() -> str:
        done = server.command("account", "show")
        assert done.returncode == 0, done.stderr
        return done.stdout.removeprefix(f"{pebble.directory_url}: ").strip()

    def account_key() -> bytes:
        (key,) = [
            content
            for place, content in server.stored().items()
            if place.startswith("_accounts/") and place.endswith(".key")
        ]
        return key

    with CertServer(tmp_path / "server", config, port=http_port) as server:
        assert account() == "no account yet; the first issuance registers one"
        assert server.cert("a.example.com").status == 200
        first, first_key = account(), account_key()
        assert first.startswith("https://")

        changed = server.command("account", "change-key", "--yes")
        assert (changed.returncode, changed.stdout) == (0, f"{pebble.directory_url}: the account has a new key\n")
        assert account_key() != first_key
        verified_leaf(server.cert("b.example.com"), "b.example.com", pebble.root_certificate())
        assert account() == first
        assert pebble.account_count() == 1

        ended = server.command("account", "deactivate", "--yes")
        assert (ended.returncode, ended.stdout) == (0, f"{pebble.directory_url}: the account is deactivated\n")
        assert account() == "no account yet; the first issuance registers one"
        verified_leaf(server.cert("c.example.com"), "c.example.com", pebble.root_certificate())
        assert account() not in ("", first)
        assert pebble.account_count() == 2
        assert "PRIVATE KEY" not in server.log + changed.stderr + ended.stderr


@pytest.mark.parametrize("command", [["account", "deactivate"], ["account", "change-key"]])
def test_nothing_is_done_to_an_account_without_a_yes(
    tmp_path: Path, pebble: Pebble, http_port: int, config: dict[str, object], command: list[str]
) -> None:
    # Its CA isn't asked for advice meanwhile, which would change what is stored.
    with CertServer(tmp_path / "server", config, port=http_port, program=loaded_dice(0.99)) as server:
        assert server.cert("a.example.com").status == 200
        before = server.stored()
        done = server.command(*command)
        assert done.returncode == 1
        assert "nothing was done" in done.stdout + done.stderr
        assert server.stored() == before


def test_with_several_cas_the_command_wants_to_know_which(
    tmp_path: Path, start_pebble: StartPebble, http_port: int
) -> None:
    pebbles = [start_pebble(http_port=http_port) for _ in range(2)]
    cas = [ca_entry(pebble.directory_url, pebble.ca_bundle) for pebble in pebbles]
    config = cas_config(*cas, domains=["a.example.com"])
    with CertServer(tmp_path / "server", config, port=http_port) as server:
        assert server.cert("a.example.com").status == 200
        done = server.command("account", "change-key", "--yes")
        assert done.returncode == 1
        assert all(pebble.directory_url in done.stderr for pebble in pebbles)
        assert "--ca" in done.stderr
        done = server.command("account", "change-key", "--yes", "--ca", pebbles[0].directory_url)
        assert (done.returncode, done.stderr.count("Traceback")) == (0, 0)
        done = server.command("account", "change-key", "--yes", "--ca", pebbles[1].directory_url)
        assert done.returncode == 1
        assert "there is no account" in done.stderr


# --- revoke


def test_a_revoked_certificate_is_replaced_in_the_running_server(
    tmp_path: Path, pebble: Pebble, http_port: int, config: dict[str, object]
) -> None:
    with CertServer(tmp_path / "server", config, port=http_port) as server:
        old = server.cert("a.example.com")
        untouched = server.cert("b.example.com")
        done = server.command("revoke", "a.example.com", "--reason", "keyCompromise", "--yes")
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"a.example.com: the certificate {old.json['fingerprint']} is revoked\n"
        wait_until(lambda: server.cert("a.example.com").json["fingerprint"] != old.json["fingerprint"])
        new = server.cert("a.example.com")
        leaf = verified_leaf(new, "a.example.com", pebble.root_certificate())
        assert leaf.public_key() != leaf_of(old).public_key()
        assert pebble.revocation_reason(leaf_of(old)) == KEY_COMPROMISE
        assert pebble.revocation_reason(leaf) is pebble.revocation_reason(leaf_of(untouched)) is None
        assert server.cert("b.example.com").json["fingerprint"] == untouched.json["fingerprint"]
        server.stop()
        server.start()
        assert server.cert("a.example.com").json["fingerprint"] == new.json["fingerprint"]
    assert pebble.order_count() == 3
    assert "PRIVATE KEY" not in server.log + done.stderr


def test_without_a_replacement_the_next_request_has_one_issued(
    tmp_path: Path, pebble: Pebble, http_port: int, config: dict[str, object]
) -> None:
    with CertServer(tmp_path / "server", config, port=http_port) as server:
        old = server.cert("a.example.com")
        done = server.command("revoke", "a.example.com", "--without-replacement", "--yes")
        assert done.returncode == 0, done.stderr
        assert pebble.revocation_reason(leaf_of(old)) is not None
        wait_until(lambda: server.cert("a.example.com").json["fingerprint"] != old.json["fingerprint"])
        leaf = verified_leaf(server.cert("a.example.com"), "a.example.com", pebble.root_certificate())
        assert pebble.revocation_reason(leaf) is None
    assert pebble.order_count() == 2


def test_a_removed_certificate_is_issued_anew_by_the_next_request_and_not_revoked(
    tmp_path: Path, pebble: Pebble, http_port: int, config: dict[str, object]
) -> None:
    with CertServer(tmp_path / "server", config, port=http_port) as server:
        old = server.cert("a.example.com")
        done = server.command("storage", "remove", "a.example.com", "--yes")
        assert done.returncode == 0, done.stderr
        wait_until(lambda: server.cert("a.example.com").json["fingerprint"] != old.json["fingerprint"])
        new = server.cert("a.example.com")
        verified_leaf(new, "a.example.com", pebble.root_certificate())
        assert pebble.revocation_reason(leaf_of(old)) is None
        server.stop()
        server.start()
        assert server.cert("a.example.com").json["fingerprint"] == new.json["fingerprint"]
        assert "certificate.written_back" not in server.log
    assert pebble.order_count() == 2


def test_a_name_that_ask_permits_is_revoked_and_replaced(
    tmp_path: Path, pebble: Pebble, http_port: int, ask_endpoint: AskEndpoint
) -> None:
    ask_endpoint.allowed = {"shop.customer.example"}
    config = acme_config(pebble.directory_url, pebble.ca_bundle, ask=ask_endpoint.section)
    with CertServer(tmp_path / "server", config, port=http_port) as server:
        old = server.cert("shop.customer.example")
        done = server.command("revoke", "shop.customer.example", "--yes")
        assert done.returncode == 0, done.stderr
        assert pebble.revocation_reason(leaf_of(old)) is not None
        wait_until(lambda: server.cert("shop.customer.example").json["fingerprint"] != old.json["fingerprint"])
        ask_endpoint.allowed = set()
        done = server.command("revoke", "shop.customer.example", "--yes")
        assert done.returncode == 1
        assert "not permitted" in done.stderr
        assert pebble.revocation_reason(leaf_of(server.cert("shop.customer.example"))) is None


def test_nothing_is_revoked_without_a_yes_or_without_a_certificate(
    tmp_path: Path, pebble: Pebble, http_port: int, config: dict[str, object]
) -> None:
    with CertServer(tmp_path / "server", config, port=http_port) as server:
        reply = server.cert("a.example.com")
        done = server.command("revoke", "a.example.com", "--reason", "keyCompromise")
        assert done.returncode == 1
        assert "nothing was done" in done.stdout + done.stderr
        assert pebble.revocation_reason(leaf_of(reply)) is None
        assert server.cert("a.example.com").json["fingerprint"] == reply.json["fingerprint"]
        for name, words in {"b.example.com": "has no stored certificate", "example.net": "not permitted"}.items():
            done = server.command("revoke", name, "--yes")
            assert done.returncode == 1
            assert words in done.stderr
            assert "Traceback" not in done.stderr
    assert pebble.order_count() == 1
