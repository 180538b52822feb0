"""Names a certificate may be issued for: hosts, addresses, wildcards; and zones."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl_cert_server.config.load import parse_config
from ssl_cert_server.config.values import identifier, wildcard, zone_name
from tests.unit.config.support import only_mistake

DNS01 = "challenges: {dns01: {provider: exec, options: {command: /bin/true}}}\n"
LABELS = st.lists(st.from_regex(r"[a-z][a-z0-9]{0,9}", fullmatch=True), min_size=2, max_size=5)
FORM = "must be *. and a host name, like *.example.com; names without a * stand in domains"


def test_addresses_stand_among_domains_in_one_spelling() -> None:
    config = parse_config('domains: ["192.0.2.1", "[2001:DB8:0:0::1]", "2001:db8::1", a.example]', "c")
    assert config.permitted_domains == ("192.0.2.1", "2001:db8::1", "a.example")


@given(st.integers(2**112, 2**128 - 1).map(ipaddress.IPv6Address))
def test_any_spelling_of_an_address_is_the_same_name(ip: ipaddress.IPv6Address) -> None:
    assert identifier(ip.exploded) == identifier(f"[{ip.compressed.upper()}]") == str(ip)


@given(LABELS)
def test_wildcards_are_kept_in_lower_case_without_a_dot_at_the_end(labels: list[str]) -> None:
    name = "*." + ".".join(labels)
    assert wildcard(name) == wildcard(name.upper() + ".") == wildcard(wildcard(name)) == name


def test_wildcards_in_any_script() -> None:
    config = parse_config(DNS01 + 'wildcards: ["*.Bücher.example"]', "c")
    assert config.wildcards == ("*.xn--bcher-kva.example",)


@given(st.text(alphabet="*.-aA1ü") | st.text())
def test_whatever_is_accepted_covers_one_label_below_a_domain(text: str) -> None:
    try:
        name = wildcard(text)
    except ValueError:
        return
    assert name.startswith("*.")
    assert name.count("*") == 1
    assert name.count(".") >= 2
    assert wildcard(name) == name


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("example.com", FORM),
        ("*", FORM),
        ("*example.com", FORM),
        ("*.*.example.com", FORM),
        ("a.*.example.com", FORM),
        ("*.a*.example.com", FORM),
        ("*.com", "must have at least two labels after the *, as in *.example.com"),
        ("*.192.0.2.1", "invalid host name: IP addresses are not answered for"),
        ("*.a_b.example", "invalid host name: labels are 1 to 63 letters, digits and inner hyphens"),
        ("*.", "invalid host name: empty"),
    ],
)
def test_other_wildcards_are_refused(written: str, message: str) -> None:
    assert only_mistake(f'{DNS01}wildcards: ["{written}"]') == f"2: wildcards[0]: {message}"


def test_a_wildcard_among_domains_is_told_its_place() -> None:
    assert only_mistake('domains: ["*.example.com"]') == (
        "1: domains[0]: wildcards stand in a list of their own: wildcards, at the top level"
    )


@pytest.mark.parametrize(
    ("written", "kept"),
    [("Example.org.", "example.org"), ("_acme-challenge.Example.org", "_acme-challenge.example.org"), ("dev", "dev")],
)
def test_zones(written: str, kept: str) -> None:
    assert zone_name(written) == kept


@pytest.mark.parametrize("written", ["", "_x.example.org", "_acme-challenge.", "*.example.org", "192.0.2.1"])
def test_what_is_no_zone(written: str) -> None:
    with pytest.raises(ValueError, match="invalid host name"):
        zone_name(written)
