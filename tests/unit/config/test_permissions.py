"""Names that strangers bring up: who is asked, the bounds, and what is looked at before a CA is."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from ssl_cert_server.config.load import parse_config
from ssl_cert_server.config.permissions import Ask, OnDemand
from ssl_cert_server.config.schema import Config
from tests.unit.config.support import only_mistake

URL = "url: 'http://127.0.0.1:5000/allowed'"
ASK_FORM = "must be a URL like http://127.0.0.1:5000/allowed"


def test_nobody_is_asked_and_caa_is_looked_at_without_a_word() -> None:
    config = Config()
    assert config.ask is None
    assert config.on_demand == OnDemand(max_labels=10, issuances=None, issuances_per_domain=None)
    assert (config.preflight.caa, config.preflight.public_ips, config.dns.resolvers) == (True, (), ())
    assert not config.preload


def test_all_of_it() -> None:
    text = f"""
        preload: true
        ask: {{{URL}, timeout: 0.5, allowed_ttl: 60, refused_ttl: 1}}
        on_demand: {{max_labels: 3, issuances: 100/1h, issuances_per_domain: 5/1d}}
        dns: {{resolvers: ["127.0.0.1:5353", "::1"]}}
        preflight: {{caa: false, public_ips: ["203.0.113.1", "2001:db8::/48"]}}
    """
    config = parse_config(text, "c")
    assert config.preload
    assert config.ask == Ask(url="http://127.0.0.1:5000/allowed", timeout=0.5, allowed_ttl=60, refused_ttl=1)
    assert (config.on_demand.max_labels, config.on_demand.issuances) == (3, (100, 3600))
    assert config.on_demand.issuances_per_domain == (5, 86_400)
    assert config.dns.resolvers == (("127.0.0.1", 5353), ("::1", 53))
    assert config.preflight.public_ips == (ip_network("203.0.113.1/32"), ip_network("2001:db8::/48"))
    assert not config.preflight.caa


@pytest.mark.parametrize("empty", ["ask:", "ask: ''", "ask: ~"])
def test_an_empty_section_asks_nobody(empty: str) -> None:
    assert parse_config(empty, "c").ask is None


@pytest.mark.parametrize("url", ["https://ask.example.com", "http://10.0.0.1:5000/a?key=b", "http://[::1]/"])
def test_anybody_may_be_asked(url: str) -> None:
    config = parse_config(f"ask: {{url: '{url}'}}", "c")
    assert config.ask is not None
    assert config.ask.url == url


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ("ask: {}", "ask.url", "this key is required"),
        ("ask: x", "ask", "must be a section with keys of its own"),
        ("ask: {url: 'ftp://a'}", "ask.url", ASK_FORM),
        ("ask: {url: 'http://'}", "ask.url", ASK_FORM),
        ("ask: {url: 'http://a/#b'}", "ask.url", ASK_FORM),
        ("ask: {url: 'http://u:p@a/'}", "ask.url", "must not hold a user name or password"),
        (f"ask: {{{URL}, timeout: 0}}", "ask.timeout", "must be more than 0"),
        (f"ask: {{{URL}, timeout: 61}}", "ask.timeout", "must be 60 or less"),
        (f"ask: {{{URL}, timeout: .nan}}", "ask.timeout", "must be a number"),
        (f"ask: {{{URL}, timeout: nan}}", "ask.timeout", "must be a number"),
        (f"ask: {{{URL}, timeout: [1]}}", "ask.timeout", "must be a number"),
        (f"ask: {{{URL}, allowed_ttl: 0}}", "ask.allowed_ttl", "must be 1 or more"),
        (f"ask: {{{URL}, refused_ttl: 2592001}}", "ask.refused_ttl", "must be 2592000 or less"),
        ("on_demand: {max_labels: 0}", "on_demand.max_labels", "must be 1 or more"),
        ("on_demand: {max_labels: 128}", "on_demand.max_labels", "must be 127 or less"),
        ("dns: {resolvers: [ns.example]}", "dns.resolvers[0]",
         "must be an IP address, alone or with a port: 192.0.2.53, 192.0.2.53:5353 or [2001:db8::53]:5353"),
        ("preflight: {public_ips: [203.0.113.1/24]}", "preflight.public_ips[0]",
         "must be an IP address or a network, like 203.0.113.1 or 203.0.113.0/24"),
        ("preflight: {public_ips: [[a]]}", "preflight.public_ips[0]",
         "must be an IP address or a network, like 203.0.113.1 or 203.0.113.0/24"),
        ("preload: sometimes", "preload", "must be true or false"),
    ],
)  # fmt: skip
def test_mistakes(text: str, path: str, message: str) -> None:
    assert only_mistake(text) == f"1: {path}: {message}"
