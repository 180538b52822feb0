"""CAs in order, what each of them wants, and what is ordered of them: accounts, profiles, key types, IP addresses."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.integration.conftest import StartPebble
from tests.support.pebble import Pebble
from tests.support.server import CertServer, Reply, acme_config, ca_entry, cas_config, changed_program
from tests.support.verify import verified_leaf
from tests.support.waiting import wait_until

DAY = 86_400
EAB_KID = "kid-1"
EAB_KEY = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
# A slow machine asks for the second name before the pause after the first one's failure is over.
_PAUSING = changed_program("from ssl_cert_server.service import ca_health", "ca_health._FIRST_PAUSE = 90.0")
OTHER_EAB_KEY = "b3RoZXItc2VjcmV0LW90aGVyLXNlY3JldC1vdGhlci1zZWNyZXQtb3RoZXItc2Vj"


def entry(pebble: Pebble, **options: Any) -> dict[str, Any]:
    return ca_entry(pebble.directory_url, pebble.ca_bundle, **options)


def issuer_of(server: CertServer, name: str) -> str:
    """The directory of the CA whose certificate is stored, as the server noted it."""
    return str(json.loads(server.stored()[f"_issued/{name}"])["directory_url"])


def test_the_next_ca_issues_while_the_first_is_down_and_the_first_again_when_it_is_back(
    tmp_path: Path, start_pebble: StartPebble, http_port: int
) -> None:
    first, second = start_pebble(http_port=http_port), start_pebble(http_port=http_port)
    config = cas_config(entry(first), entry(second), re_patterns=[r".+\.example\.com"])
    first.stop()
    with CertServer(tmp_path / "server", config, port=http_port, program=_PAUSING) as server:
        verified_leaf(server.cert("a.example.com"), "a.example.com", second.root_certificate())
        assert server.log.count("event=authority.failed") == 1
        asked = server.log.count("event=acme.request.retried")
        verified_leaf(server.cert("b.example.com"), "b.example.com", second.root_certificate())
        # The first one is left alone for a while: nobody waits for it again.
        assert server.log.count("event=authority.failed") == 1
        assert server.log.count("event=acme.request.retried") == asked
        first.start()
        server.stop()  # who starts anew knows of no pause
        server.start()
        verified_leaf(server.cert("c.example.com"), "c.example.com", first.root_certificate())
        assert server.cert("a.example.com").status == 200
        assert issuer_of(server, "a.example.com") == issuer_of(server, "b.example.com") == second.directory_url
        assert issuer_of(server, "c.example.com") == first.directory_url
    assert second.order_count() == 2


def test_the_next_ca_issues_when_the_firsts_budget_is_spent(
    tmp_path: Path, start_pebble: StartPebble, http_port: int
) -> None:
    first, second = start_pebble(http_port=http_port), start_pebble(http_port=http_port)
    limited = entry(first, limits={"new_orders": "1/1d"})
    config = cas_config(limited, entry(second), re_patterns=[r".+\.example\.com"])
    with CertServer(tmp_path / "server", config, port=http_port) as server:
        verified_leaf(server.cert("a.example.com"), "a.example.com", first.root_certificate())
        verified_leaf(server.cert("b.example.com"), "b.example.com", second.root_certificate())
        server.kill()
        server.start()  # what was spent is remembered
        verified_leaf(server.cert("c.example.com"), "c.example.com", second.root_certificate())
    assert (first.order_count(), second.order_count()) == (1, 2)


def test_the_next_ca_issues_what_the_first_refuses(tmp_path: Path, start_pebble: StartPebble, http_port: int) -> None:
    first = start_pebble(http_port=http_port, blocklist=["a.example.com"])
    second = start_pebble(http_port=http_port)
    config = cas_config(entry(first), entry(second), re_patterns=[r".+\.example\.com"])
    with CertServer(tmp_path / "server", config, port=http_port) as server:
        verified_leaf(server.cert("a.example.com"), "a.example.com", second.root_certificate())
        verified_leaf(server.cert("b.example.com"), "b.example.com", first.root_certificate())  # it is in good health


def test_a_certificate_is_renewed_at_the_next_ca_when_its_own_is_down(
    tmp_path: Path, start_pebble: StartPebble, http_port: int
) -> None:
    first, second = start_pebble(http_port=http_port, validity_seconds=30), start_pebble(http_port=http_port)
    root = first.root_certificate()
    config = cas_config(entry(first), entry(second), domains=["a.example.com"])
    with CertServer(tmp_path / "server", config, port=http_port) as server:
        old = server.cert("a.example.com")
        first.stop()  # before it is renewed
        verified_leaf(old, "a.example.com", root)
        wait_until(lambda: server.cert("a.example.com").json["fingerprint"] != old.json["fingerprint"], seconds=120)
        verified_leaf(server.cert("a.example.com"), "a.example.com", second.root_certificate())
    assert second.order_count() == 1
    assert " is a replacement of " not in second.log  # of what another CA issued it knows nothing


def test_when_all_are_down_the_answer_says_when_to_come_back(
    tmp_path: Path, start_pebble: StartPebble, http_port: int
) -> None:
    first, second = start_pebble(http_port=http_port), start_pebble(http_port=http_port)
    config = cas_config(entry(first), entry(second), re_patterns=[r".+\.example\.com"])
    first.stop()
    second.stop()
    with CertServer(tmp_path / "server", config, port=http_port, program=_PAUSING) as server:
        assert_refused(server.cert("a.example.com"), 120)
        assert server.log.count("event=authority.failed") == 2
        assert_refused(server.cert("b.example.com"), 120)
        assert server.log.count("event=authority.failed") == 2


def test_an_account_bound_to_one_at_the_cas_own_site(tmp_path: Path, start_pebble: StartPebble, http_port: int) -> None:
    pebble = start_pebble(http_port=http_port, eab={EAB_KID: EAB_KEY})
    bound = entry(pebble, eab={"kid": EAB_KID, "hmac_key": EAB_KEY})
    with CertServer(tmp_path / "server", cas_config(bound, domains=["a.example.com"]), port=http_port) as server:
        verified_leaf(server.cert("a.example.com"), "a.example.com", pebble.root_certificate())
    assert EAB_KEY not in server.log


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"eab": {"kid": EAB_KID, "hmac_key": OTHER_EAB_KEY}}, "external account binding"),
        ({}, "set the key id and the HMAC key that it gave you (external account binding)"),
    ],
    ids=["another key", "none"],
)
def test_without_the_right_binding_the_log_says_so(
    tmp_path: Path, start_pebble: StartPebble, http_port: int, options: dict[str, Any], words: str
) -> None:
    pebble = start_pebble(http_port=http_port, eab={EAB_KID: EAB_KEY})
    config = cas_config(entry(pebble, **options), domains=["a.example.com"])
    with CertServer(tmp_path / "server", config, port=http_port) as server:
        assert_refused(server.cert("a.example.com"), 120)
        failed = [line for line in server.log.splitlines() if "event=certificate.failed" in line]
        assert len(failed) == 1
        assert words in failed[0]
        assert "acme[].eab" in server.command("why", "a.example.com").stdout
    assert EAB_KEY not in server.log
    assert OTHER_EAB_KEY not in server.log
    assert pebble.order_count() == 0


def test_a_profile_is_ordered_where_the_ca_offers_it(tmp_path: Path, start_pebble: StartPebble, http_port: int) -> None:
    pebble = start_pebble(http_port=http_port, profiles={"shortlived": 6 * DAY})
    if "profiles" not in pebble.directory()["meta"]:
        pytest.skip("Debian's Pebble has no profiles")
    config = cas_config(entry(pebble, profile="shortlived"), domains=["a.example.com"])
    with CertServer(tmp_path / "server", config, port=http_port) as server:
        leaf = verified_leaf(server.cert("a.example.com"), "a.example.com", pebble.root_certificate())
    assert lifetime(leaf) == pytest.approx(6 * DAY, abs=2)


def test_a_profile_that_the_ca_does_not_offer_is_no_reason_to_go_without(
    tmp_path: Path, start_pebble: StartPebble, http_port: int
) -> None:
    pebble = start_pebble(http_port=http_port, validity_seconds=90 * DAY)
    config = cas_config(entry(pebble, profile="tls"), domains=["a.example.com"])
    with CertServer(tmp_path / "server", config, port=http_port) as server:
        leaf = verified_leaf(server.cert("a.example.com"), "a.example.com", pebble.root_certificate())
        (warned,) = [line for line in server.log.splitlines() if "event=acme.profile.unknown" in line]
    assert lifetime(leaf) == pytest.approx(90 * DAY, abs=2)
    assert "profile=tls" in warned


def test_both_kinds_of_key_side_by_side(tmp_path: Path, pebble: Pebble, http_port: int) -> None:
    config = cas_config(entry(pebble, key_type=["ecdsa-p256", "rsa-2048"]), domains=["a.example.com"])
    paths = ["/cert/a.example.com", "/cert/a.example.com?keytype=rsa", "/cert/a.example.com?keytype=ecdsa"]
    with CertServer(tmp_path / "server", config, port=http_port) as server:
        with ThreadPoolExecutor(len(paths)) as pool:
            usual, with_rsa, with_ecdsa = pool.map(server.get, paths)
        root = pebble.root_certificate()
        assert isinstance(verified_leaf(usual, "a.example.com", root).public_key(), ec.EllipticCurvePublicKey)
        assert isinstance(verified_leaf(with_rsa, "a.example.com", root).public_key(), rsa.RSAPublicKey)
        assert with_ecdsa.json["fingerprint"] == usual.json["fingerprint"]
        stored = server.stored()
        assert stored["a.example.com"].decode() == usual.json["pkey"] + usual.json["cert"]
        assert stored["a.example.com+rsa"].decode() == with_rsa.json["pkey"] + with_rsa.json["cert"]
        assert server.get("/cert/a.example.com?keytype=nonsense").status == 400
        server.stop()
        server.start()
        again = [server.get(path).json["fingerprint"] for path in paths]
        assert again == [reply.json["fingerprint"] for reply in (usual, with_rsa, with_ecdsa)]
    assert pebble.order_count() == 2


def test_a_kind_of_key_that_is_not_issued_here_is_refused(tmp_path: Path, pebble: Pebble, http_port: int) -> None:
    config = acme_config(pebble.directory_url, pebble.ca_bundle, domains=["a.example.com"])
    with CertServer(tmp_path / "server", config, port=http_port) as server:
        assert server.get("/cert/a.example.com?keytype=rsa").status == 400
        assert pebble.order_count() == 0
        verified_leaf(server.get("/cert/a.example.com?keytype=ecdsa"), "a.example.com", pebble.root_certificate())


def test_a_certificate_for_an_ip_address(tmp_path: Path, pebble: Pebble, http_port: int) -> None:
    config = acme_config(pebble.directory_url, pebble.ca_bundle, domains=["127.0.0.1"])
    with CertServer(tmp_path / "server", config, port=http_port) as server:
        leaf = verified_leaf(server.cert("127.0.0.1"), "127.0.0.1", pebble.root_certificate())
        assert server.cert("127.0.0.2").status == 400
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert len(names.get_values_for_type(x509.IPAddress)) == 1


def assert_refused(reply: Reply, longest: int) -> None:
    assert reply.status == 500, reply.body
    assert 1 <= int(reply.headers["retry-after"]) <= longest


def lifetime(leaf: x509.Certificate) -> float:
    return (leaf.not_valid_after_utc - leaf.not_valid_before_utc).total_seconds()
