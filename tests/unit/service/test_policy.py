from __future__ import annotations

import time

import pytest

from ssl_cert_server.errors import NotPermitted
from ssl_cert_server.model import KeyFamily, Permission, Subject
from ssl_cert_server.service.patterns import PatternSet
from ssl_cert_server.service.policy import Decision, Policy, PolicyRules, SelfSignedRule, Source, storage_key

RSA, ECDSA = KeyFamily.RSA, KeyFamily.ECDSA


def _acme(
    *names: str,
    family: KeyFamily = ECDSA,
    permission: Permission = Permission.LISTED,
    otherwise: Decision | None = None,
) -> Decision:
    return Decision(Source.ACME, Subject(storage_key(names[0], family), names, family, permission), otherwise)


def _fallback(cert_key: str) -> Decision:
    return Decision(Source.SELF_SIGNED, Subject(cert_key))


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
    assert policy.decide("managed.test") == Decision(Source.MANAGED, Subject("wild"))
    assert policy.decide("acme.test") == _acme("acme.test")
    assert policy.decide("pattern.test") == _acme("pattern.test", permission=Permission.PATTERN)
    assert policy.decide("other.test") == Decision(Source.LOCAL_CA)
    assert policy.decide("other.com") == _fallback("fallback")


def test_the_first_of_several_managed_patterns_wins() -> None:
    policy = Policy(PolicyRules(managed=[(r"a\.com", "one"), (r".+\.com", "two"), (r".+", "three")]))
    assert policy.decide("a.com").subject.cert_key == "one"
    assert policy.decide("b.com").subject.cert_key == "two"
    assert policy.decide("b.net").subject.cert_key == "three"


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
    started = time.thread_time()
    assert matching.first("www.customer-4321.example.com") == 4321
    assert matching.first("www.customer-5000.example.com") is None
    assert time.thread_time() - started < 1


def test_a_hostile_name_costs_linear_time() -> None:
    matching = PatternSet([r"(a+)+b", r"(a|a)*c", r"(.*a){20}d"])
    started = time.thread_time()
    assert matching.first("a" * 253) is None
    assert time.thread_time() - started < 1


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
    assert policy.decide("localhost") == _fallback("fallback")


def test_rsa_certificates_are_kept_beside_ecdsa_ones() -> None:
    rules = PolicyRules(domains=["a.com"], patterns=[r".+\.net"], families=[RSA])
    assert Policy(rules).decide("a.com") == _acme("a.com", family=RSA)
    assert Policy(rules).decide("b.net") == _acme("b.net", family=RSA, permission=Permission.PATTERN)


def _names(policy: Policy, cert_key: str) -> tuple[str, ...] | None:
    subject = policy.stored_subject(cert_key)
    return subject.names if subject else None


class TestWildcards:
    """One certificate for everything one label below a name."""

    rules = PolicyRules(wildcards=["*.a.com"], domains=["a.com", "x.a.com", "b.com"])

    def test_answers_names_one_label_below_and_takes_in_the_permitted_apex(self) -> None:
        policy = Policy(self.rules)
        wild = _acme("*.a.com", "a.com")
        for name in ("www.a.com", "x.a.com", "a.com"):
            assert policy.decide(name) == wild
        assert policy.decide("b.com") == _acme("b.com")
        with pytest.raises(NotPermitted):
            policy.decide("deep.www.a.com")

    def test_leaves_out_an_apex_that_nobody_permitted_or_that_is_managed(self) -> None:
        policy = Policy(PolicyRules(wildcards=["*.a.com"]))
        assert policy.decide("www.a.com") == _acme("*.a.com")
        with pytest.raises(NotPermitted):
            policy.decide("a.com")
        managed = Policy(PolicyRules(managed=[(r"a\.com", "own")], wildcards=["*.a.com"], domains=["a.com"]))
        assert managed.decide("www.a.com") == _acme("*.a.com")

    def test_is_found_again_by_its_storage_key_and_the_single_names_below_are_not(self) -> None:
        policy = Policy(self.rules)
        assert _names(policy, "*.a.com") == ("*.a.com", "a.com")
        for cert_key in ("a.com", "x.a.com", "www.a.com", "*.b.com", "*.a.com+rsa"):
            assert policy.stored_subject(cert_key) is None

    def test_everything_listed_is_told_once(self) -> None:
        listed = Policy(self.rules).listed()
        assert [subject.names for subject in listed] == [("*.a.com", "a.com"), ("b.com",)]


class TestFamilies:
    """ECDSA and RSA side by side."""

    rules = PolicyRules(domains=["a.com"], families=[ECDSA, RSA], local_ca_patterns=[r".+\.test"])

    def test_the_first_is_what_is_given_unasked(self) -> None:
        policy = Policy(self.rules)
        assert policy.usual_family is ECDSA
        assert policy.decide("a.com") == policy.decide("a.com", ECDSA) == _acme("a.com")
        assert policy.decide("a.com", RSA) == _acme("a.com", family=RSA)

    def test_one_that_is_not_issued_is_refused(self) -> None:
        with pytest.raises(NotPermitted, match="RSA keys are not issued"):
            Policy(PolicyRules(domains=["a.com"])).decide("a.com", RSA)

    def test_each_is_stored_and_listed_apart(self) -> None:
        policy = Policy(self.rules)
        assert [subject.cert_key for subject in policy.listed()] == ["a.com", "a.com+rsa"]
        assert policy.stored_subject("a.com+rsa") == _acme("a.com", family=RSA).subject


class TestAsk:
    """What nothing else covers is asked about."""

    def test_comes_after_every_pattern_and_before_the_fallback(self) -> None:
        rules = PolicyRules(
            domains=["a.com"], local_ca_patterns=[r".+\.test"], ask=True, self_signed=SelfSignedRule("fallback")
        )
        policy = Policy(rules)
        assert policy.decide("a.com") == _acme("a.com")
        assert policy.decide("x.test") == Decision(Source.LOCAL_CA)
        asked = _acme("b.com", permission=Permission.ASK, otherwise=_fallback("fallback"))
        assert policy.decide("b.com") == asked
        assert policy.stored_subject("b.com") == asked.subject

    @pytest.mark.parametrize("name", ["localhost", "192.0.2.1", ".".join("abcdefghijk")])
    def test_is_not_for_single_labels_addresses_and_endless_names(self, name: str) -> None:
        with pytest.raises(NotPermitted):
            Policy(PolicyRules(ask=True)).decide(name)


def test_a_pattern_permits_no_endless_names_and_no_addresses() -> None:
    policy = Policy(PolicyRules(domains=["a.b.c.d.com"], patterns=[".*"], max_labels=4))
    assert policy.decide("a.b.c.com").subject.on_demand
    assert not policy.decide("a.b.c.d.com").subject.on_demand
    for name in ("x.b.c.d.com", "192.0.2.1", "2001:db8::1"):
        with pytest.raises(NotPermitted):
            policy.decide(name)


def test_an_address_is_permitted_where_it_is_listed() -> None:
    policy = Policy(PolicyRules(domains=["192.0.2.1", "2001:db8::1"]))
    for address in ("192.0.2.1", "2001:db8::1"):
        assert policy.decide(address) == _acme(address)
        assert policy.stored_subject(address) == _acme(address).subject


class TestStoredSubject:
    """Which stored keys are ACME certificates: the worker renews those, and must not touch any other."""

    permitted = PolicyRules(managed=[(r"m\..+", "shared.com")], domains=["a.com"], patterns=[".*"])

    def test_is_the_name_of_a_permitted_certificate(self) -> None:
        assert _names(Policy(self.permitted), "a.com") == ("a.com",)
        assert _names(Policy(self.permitted), "b.net") == ("b.net",)

    def test_of_an_rsa_certificate_is_without_the_suffix(self) -> None:
        policy = Policy(PolicyRules(domains=["a.com"], families=[RSA]))
        assert _names(policy, "a.com+rsa") == ("a.com",)

    @pytest.mark.parametrize(
        "cert_key",
        ["acme_account+key", "self_signed", "a.com+rsa", "A.com", "a.com.", "", "*.a.com", "10.0.0.1", "_state", "a b"],
    )
    def test_is_none_for_what_is_no_name_even_where_all_is_permitted(self, cert_key: str) -> None:
        assert Policy(self.permitted).stored_subject(cert_key) is None

    @pytest.mark.parametrize("cert_key", ["a.com", "a.com+rsa+rsa", "+rsa", "acme_account+key"])
    def test_is_none_for_other_keys_where_rsa_is_issued(self, cert_key: str) -> None:
        policy = Policy(PolicyRules(domains=["a.com"], patterns=[".*"], families=[RSA]))
        assert policy.stored_subject(cert_key) is None

    def test_is_none_for_a_name_that_is_not_permitted_any_more(self) -> None:
        assert Policy(PolicyRules(domains=["a.com"])).stored_subject("b.com") is None

    def test_is_none_for_a_name_that_is_managed(self) -> None:
        assert Policy(self.permitted).stored_subject("m.com") is None

    def test_is_none_for_a_managed_key_that_is_also_a_permitted_name(self) -> None:
        assert Policy(self.permitted).stored_subject("shared.com") is None

    def test_is_none_for_the_self_signed_key_that_is_also_a_permitted_name(self) -> None:
        policy = Policy(PolicyRules(patterns=[".*"], self_signed=SelfSignedRule("fallback")))
        assert policy.stored_subject("fallback") is None
