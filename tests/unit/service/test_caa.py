from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl_cert_server.dns.resolver import CaaRecord
from ssl_cert_server.service.caa import CaaVerdict, permitted_methods

METHODS = ("http-01", "tls-alpn-01", "dns-01")
ACCOUNT = "https://ca.test/acct/1"


def judge(
    *records: CaaRecord | str,
    wildcard: bool = False,
    identities: tuple[str, ...] = ("ca.test", "alias.test"),
    account_url: str | None = ACCOUNT,
    methods: tuple[str, ...] = METHODS,
) -> CaaVerdict:
    """Judge records; a text is the value of an ``issue``."""
    return permitted_methods(
        [CaaRecord(0, "issue", record) if isinstance(record, str) else record for record in records],
        methods,
        wildcard=wildcard,
        identities=identities,
        account_url=account_url,
    )


def test_no_records_permit_everybody() -> None:
    assert judge() == CaaVerdict(METHODS)


@pytest.mark.parametrize(
    "value",
    [
        "ca.test",
        "CA.Test",
        "alias.test",
        " \tca.test\t ",
        "ca.test;",
        "ca.test ; ",
        "ca.test; policy=ev",
        "ca.test;policy=",
        "ca.test; a=b=c ; d-1=e",
        f"ca.test; accounturi={ACCOUNT}",
        f"ca.test;accounturi = {ACCOUNT} ",
        "ca.test; validationmethods=http-01,tls-alpn-01,dns-01,ca-unheard-of",
    ],
)
def test_an_issue_of_ours_permits(value: str) -> None:
    assert judge(value) == CaaVerdict(METHODS)
    assert judge("other.test", value) == CaaVerdict(METHODS)
    assert judge(value, ";") == CaaVerdict(METHODS)


@pytest.mark.parametrize(
    "value",
    [
        "",
        ";",
        " ; ",
        "; policy=ev",
        "ca.test.",
        "a.ca.test",
        "test",
        "ca..test",
        "-ca.test",
        "ca.test ca.test",
        "ca.test; policy",
        "ca.test; policy=ev;",
        "ca.test;; policy=ev",
        "ca.test; =ev",
        "ca.test; policy=e v",
        "ca.test; pol_icy=ev",
        "ca.test; policy=évo",
        "“ca.test”",
        "ca.test\n",
        "http://ca.test",
    ],
)
def test_what_is_for_nobody_or_breaks_the_grammar_permits_nobody(value: str) -> None:
    verdict = judge(value)
    assert verdict.methods == ()
    assert verdict.reason.endswith('their owner has to add issue "ca.test"')


def test_the_reason_names_who_is_permitted_and_what_to_add() -> None:
    assert judge("other.test", "; x=y", "Else.test").reason == (
        'permit else.test, other.test alone: their owner has to add issue "ca.test"'
    )
    assert judge(";").reason == 'permit no CA at all: their owner has to add issue "ca.test"'
    many = judge(*(f"{number}.test" for number in range(9)))
    assert many.reason.startswith("permit 0.test, 1.test, 2.test, 3.test, 4.test and 4 more alone")


# --- wildcards


def test_issuewild_counts_for_wildcards_alone_and_then_instead_of_issue() -> None:
    wild = CaaRecord(0, "issuewild", "ca.test")
    assert judge(wild, "other.test", wildcard=True) == CaaVerdict(METHODS)
    assert judge(wild, "other.test").methods == ()
    nobody = CaaRecord(0, "issuewild", ";")
    assert judge(nobody, "ca.test") == CaaVerdict(METHODS)
    assert judge(nobody, "ca.test", wildcard=True) == CaaVerdict(
        (), 'permit no CA at all: their owner has to add issuewild "ca.test"'
    )


def test_without_issuewild_issue_counts_for_wildcards() -> None:
    assert judge("ca.test", wildcard=True) == CaaVerdict(METHODS)
    assert judge("other.test", wildcard=True).reason.endswith('add issue "ca.test"')


@pytest.mark.parametrize(
    "record",
    [
        CaaRecord(0, "iodef", "mailto:a@b.test"),
        CaaRecord(128, "iodef", "mailto:a@b.test"),
        CaaRecord(128, "issuemail", "other.test"),
        CaaRecord(0, "issuewild", ";"),
        CaaRecord(0, "foo", "bar"),
        CaaRecord(127, "foo", "bar"),
    ],
)
def test_properties_that_say_nothing_of_the_name_restrict_nothing(record: CaaRecord) -> None:
    assert judge(record) == CaaVerdict(METHODS)


@pytest.mark.parametrize("flags", [128, 129, 255])
def test_an_unknown_critical_property_refuses_whatever_else_is_there(flags: int) -> None:
    verdict = judge("ca.test", CaaRecord(flags, "foo\n", "bar"))
    assert verdict == CaaVerdict((), "hold a critical property that no CA may overlook: their owner has to remove foo ")


def test_a_known_critical_property_is_read_as_ever() -> None:
    assert judge(CaaRecord(128, "issue", "ca.test")) == CaaVerdict(METHODS)
    assert judge(CaaRecord(128, "issue", "other.test")).methods == ()


# --- RFC 8657


def test_another_account_is_refused() -> None:
    verdict = judge(f"ca.test; accounturi={ACCOUNT}2")
    assert verdict == CaaVerdict(
        (), f"permit ca.test for other accounts alone: their owner has to set accounturi={ACCOUNT}"
    )
    assert judge(f"ca.test; accounturi={ACCOUNT}2", f"ca.test; accounturi={ACCOUNT}") == CaaVerdict(METHODS)


def test_before_there_is_an_account_any_will_do() -> None:
    assert judge(f"ca.test; accounturi={ACCOUNT}2", account_url=None) == CaaVerdict(METHODS)


@pytest.mark.parametrize("account_url", [ACCOUNT, None])
def test_several_accounts_in_one_property_can_not_be_satisfied(account_url: str | None) -> None:
    assert judge(f"ca.test; accounturi={ACCOUNT}; accounturi={ACCOUNT}", account_url=account_url).methods == ()


def test_methods_are_narrowed_in_their_order() -> None:
    assert judge("ca.test; validationmethods=dns-01,http-01") == CaaVerdict(
        ("http-01", "dns-01"), "don't permit tls-alpn-01: their owner has to change validationmethods"
    )
    assert judge("ca.test; validationmethods=dns-01", "ca.test; validationmethods=http-01").methods == (
        "http-01",
        "dns-01",
    )
    assert judge("ca.test; validationmethods=dns-01", "ca.test") == CaaVerdict(METHODS)


@pytest.mark.parametrize("methods", ["", ",", "http-01,", "http_01", "HTTP-01", "dns-account-01"])
def test_methods_that_are_none_of_ours_leave_nothing(methods: str) -> None:
    verdict = judge(f"ca.test; validationmethods={methods}")
    assert verdict.methods == ()
    assert verdict.reason.startswith("don't permit http-01, tls-alpn-01, dns-01: ")


def test_methods_named_twice_leave_nothing() -> None:
    assert judge("ca.test; validationmethods=http-01; validationmethods=http-01").methods == ()


def test_account_and_methods_hold_for_their_own_property() -> None:
    verdict = judge(
        f"ca.test; accounturi={ACCOUNT}2; validationmethods=http-01",
        f"ca.test; accounturi={ACCOUNT}; validationmethods=dns-01",
    )
    assert verdict.methods == ("dns-01",)


# --- whatever may stand in a zone

_WORDS = st.sampled_from(
    ["ca.test", "other.test", ";", "=", " ", "\t", "accounturi", "validationmethods", "http-01", "dns-01", ",", ACCOUNT]
)
_VALUES = st.one_of(st.text(max_size=40), st.lists(_WORDS, max_size=12).map("".join))
_RECORDS = st.lists(
    st.builds(
        CaaRecord,
        st.sampled_from([0, 1, 128]),
        st.sampled_from(["issue", "issuewild", "iodef", "foo"]),
        _VALUES,
    ),
    max_size=6,
)
_LEFT = st.lists(st.sampled_from(METHODS), unique=True, min_size=1).map(tuple)


@given(_RECORDS, _LEFT, st.booleans())
def test_the_verdict_is_a_part_of_what_was_asked_and_says_why_in_one_line(
    records: list[CaaRecord], methods: tuple[str, ...], wildcard: bool
) -> None:
    verdict = judge(*records, methods=methods, wildcard=wildcard)
    assert list(verdict.methods) == [method for method in methods if method in verdict.methods]
    assert bool(verdict.reason) == (verdict.methods != methods)
    assert verdict.reason.isprintable()
    assert len(verdict.reason) < 600


@given(_RECORDS, st.randoms(use_true_random=False), st.booleans())
def test_the_order_of_records_does_not_matter(records: list[CaaRecord], random: object, wildcard: bool) -> None:
    shuffled = sorted(records, key=lambda _: random.random())  # type: ignore[attr-defined]
    assert judge(*shuffled, wildcard=wildcard).methods == judge(*records, wildcard=wildcard).methods


@given(_RECORDS, st.booleans())
def test_a_plain_issue_of_ours_permits_unless_something_critical_stands_by(
    records: list[CaaRecord], wildcard: bool
) -> None:
    verdict = judge(*records, CaaRecord(0, "issuewild" if wildcard else "issue", "ca.test"), wildcard=wildcard)
    critical = any(record.flags == 128 and record.tag == "foo" for record in records)
    assert verdict.methods == (() if critical else METHODS)


@given(_RECORDS, st.booleans())
def test_who_is_not_named_is_not_permitted(records: list[CaaRecord], wildcard: bool) -> None:
    tag = "issuewild" if wildcard else "issue"
    verdict = judge(*records, CaaRecord(0, tag, "other.test"), wildcard=wildcard, identities=("never-named.test",))
    assert verdict.methods == ()
