from __future__ import annotations

import time

import pytest

from ssl_cert_server.errors import NotPermitted
from ssl_cert_server.model import KeyType
from ssl_cert_server.service.policy import Decision, PatternSet, Policy, PolicyRules, SelfSignedRule, Source


def _acme(cert_key: str) -> Decision:
    return Decision(Source.ACME, cert_key)


def test_rules_are_tried_in_their_order() -> None:
    policy = Policy(
        PolicyRules(
            managed=[(r"managed\..+", "wild")],
            domains=["managed.test", "acme.test"],
            patterns=[r"pattern\.(com|test)"],
            local_ca_patterns=[r".+\.test", "managed.+"],
            self_signed=SelfSignedRule("fallback"),
        )
    )
    assert policy.decide("managed.test") == Decision(Source.MANAGED, "wild")
    assert policy.decide("acme.test") == _acme("acme.test")
    assert policy.decide("pattern.test") == _acme("pattern.test")
    assert policy.decide("other.test") == Decision(Source.LOCAL_CA)
    assert policy.decide("other.com") == Decision(Source.SELF_SIGNED, "fallback")


def test_the_first_of_several_managed_patterns_wins() -> None:
    policy = Policy(PolicyRules(managed=[(r"a\.com", "one"), (r".+\.com", "two"), (r".+", "three")]))
    assert policy.decide("a.com").cert_key == "one"
    assert policy.decide("b.com").cert_key == "two"
    assert policy.decide("b.net").cert_key == "three"


def test_nothing_is_permitted_without_rules() -> None:
    with pytest.raises(NotPermitted, match=r"^example\.com is not permitted here$"):
        Policy(PolicyRules()).decide("example.com")


@pytest.mark.parametrize(
    "name",
    [
        "abc.example.com.attacker.net",
        "xabc.example.com",
        "x.abc.example.com",
        "abc.example.comm",
        "abcxexample.com",
        "example.com",
    ],
)
def test_a_pattern_matches_the_whole_name_only(name: str) -> None:
    pattern = r"abc\.example\.com"
    for rules in (PolicyRules(patterns=[pattern]), PolicyRules(managed=[(pattern, "key")])):
        policy = Policy(rules)
        policy.decide("abc.example.com")
        with pytest.raises(NotPermitted):
            policy.decide(name)


def test_each_alternative_of_a_pattern_is_for_whole_names() -> None:
    policy = Policy(PolicyRules(patterns=[r"a\.com|b\.com"]))
    policy.decide("a.com")
    policy.decide("b.com")
    for name in ("a.com.evil.net", "evil-b.com"):
        with pytest.raises(NotPermitted):
            policy.decide(name)


def test_a_domain_does_not_permit_its_subdomains() -> None:
    with pytest.raises(NotPermitted):
        Policy(PolicyRules(domains=["example.com"])).decide("www.example.com")


def test_thousands_of_patterns_are_one_set() -> None:
    patterns = [rf"(.+\.)?customer-{number}\.example\.com" for number in range(5000)]
    matching = PatternSet(patterns)
    started = time.perf_counter()
    assert matching.first("www.customer-4321.example.com") == 4321
    assert matching.first("www.customer-5000.example.com") is None
    assert time.perf_counter() - started < 1


def test_a_hostile_name_costs_linear_time() -> None:
    matching = PatternSet([r"(a+)+b", r"(a|a)*c", r"(.*a){20}d"])
    started = time.perf_counter()
    assert matching.first("a" * 253) is None
    assert time.perf_counter() - started < 1


def test_no_patterns_match_nothing() -> None:
    assert PatternSet([]).first("") is None
    assert PatternSet([]).first("example.com") is None


def test_check_sni_keeps_names_without_a_dot_from_self_signed() -> None:
    policy = Policy(PolicyRules(self_signed=SelfSignedRule("fallback", check_sni=True)))
    assert policy.decide("example.com").source is Source.SELF_SIGNED
    with pytest.raises(NotPermitted):
        policy.decide("localhost")


def test_without_check_sni_every_name_is_self_signed() -> None:
    policy = Policy(PolicyRules(self_signed=SelfSignedRule("fallback")))
    assert policy.decide("localhost") == Decision(Source.SELF_SIGNED, "fallback")


def test_rsa_certificates_are_kept_beside_ecdsa_ones() -> None:
    rules = PolicyRules(domains=["a.com"], patterns=[r".+\.net"], key_type=KeyType.RSA_2048)
    assert Policy(rules).decide("a.com") == _acme("a.com+rsa")
    assert Policy(rules).decide("b.net") == _acme("b.net+rsa")


class TestAcmeName:
    """Which stored keys are ACME certificates: the worker renews those, and must not touch any other."""

    permitted = PolicyRules(managed=[(r"m\..+", "shared.com")], domains=["a.com"], patterns=[".*"])

    def test_is_the_name_of_a_permitted_certificate(self) -> None:
        assert Policy(self.permitted).acme_name("a.com") == "a.com"
        assert Policy(self.permitted).acme_name("b.net") == "b.net"

    def test_of_an_rsa_certificate_is_without_the_suffix(self) -> None:
        policy = Policy(PolicyRules(domains=["a.com"], key_type=KeyType.RSA_2048))
        assert policy.acme_name("a.com+rsa") == "a.com"

    @pytest.mark.parametrize(
        "cert_key",
        ["acme_account+key", "self_signed", "a.com+rsa", "A.com", "a.com.", "", "*.a.com", "10.0.0.1", "_state", "a b"],
    )
    def test_is_none_for_what_is_no_name_even_where_all_is_permitted(self, cert_key: str) -> None:
        assert Policy(self.permitted).acme_name(cert_key) is None

    @pytest.mark.parametrize("cert_key", ["a.com", "a.com+rsa+rsa", "+rsa", "acme_account+key"])
    def test_is_none_for_other_keys_where_rsa_is_issued(self, cert_key: str) -> None:
        policy = Policy(PolicyRules(domains=["a.com"], patterns=[".*"], key_type=KeyType.RSA_2048))
        assert policy.acme_name(cert_key) is None

    def test_is_none_for_a_name_that_is_not_permitted_any_more(self) -> None:
        assert Policy(PolicyRules(domains=["a.com"])).acme_name("b.com") is None

    def test_is_none_for_a_name_that_is_managed(self) -> None:
        assert Policy(self.permitted).acme_name("m.com") is None

    def test_is_none_for_a_managed_key_that_is_also_a_permitted_name(self) -> None:
        assert Policy(self.permitted).acme_name("shared.com") is None

    def test_is_none_for_the_self_signed_key_that_is_also_a_permitted_name(self) -> None:
        policy = Policy(PolicyRules(patterns=[".*"], self_signed=SelfSignedRule("fallback")))
        assert policy.acme_name("fallback") is None
