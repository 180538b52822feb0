"""Every mistake, at once, with its line and what to do about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssl_cert_server.config.load import parse_config
from tests.unit.config.support import mistakes, only_mistake

KEYS = (
    "listen, pid_file, storage, managed, domains, wildcards, re_patterns, preload, cache_mb, ask, on_demand, "
    "lets_encrypt, acme, challenges, dns, preflight, self_signed, local_ca"
)
NOT_A_LIST = "must be a list: [one, two], or one entry a line, each after a dash"
HIDDEN = "holds a line break, a control character or another character that can't be seen"
HTTPS_ONLY = "must start with https:// (http:// is accepted for a CA on this machine only)"
STORAGE_KEY = (
    "must be 1 to 200 printable ASCII characters without spaces and slashes, "
    "and must not start with a dot or an underscore"
)


def test_every_mistake_at_once_in_the_order_of_lines() -> None:
    text = """
listen: ["127.0.0.1:1", nowhere, "127.0.0.1:1"]
lets_encrypt:
  staging: true
  renew_befor: 30
  domains:
    - good.example.com
    - "*.example.com"
    - a b
  re_patterns: ['(']
managed:
  - pattern: 'a'
    pattern: 'b'
acme:
  - directory_url: ftp://ca.example.com
  - directory_url: https://ca.example.com
  - directory_url: https://ca.example.com
self_signed: {enable: perhaps, valid_days: 0}
"""
    assert mistakes(text) == [
        "2: listen[2]: the same address as listen[0]",
        "2: listen[1]: must be host:port, [IPv6 address]:port or unix:/path, with a port from 0 to 65535",
        "4: lets_encrypt.staging: staging is Let's Encrypt's, but acme names another CA; give one of the two",
        "5: lets_encrypt.renew_befor: unknown key; did you mean renew_before?",
        "8: lets_encrypt.domains[1]: wildcards stand in a list of their own: wildcards, at the top level",
        "9: lets_encrypt.domains[2]: invalid host name: labels are 1 to 63 letters, digits and inner hyphens",
        "10: lets_encrypt.re_patterns[0]: not a valid RE2 pattern: missing )",
        "12: managed[0].cert_key: this key is required",
        "13: managed[0].pattern: this key is given twice (first on line 12)",
        "15: acme[0].directory_url: must be a URL like https://ca.example.com/directory",
        "17: acme[2].directory_url: the same CA as acme[1]",
        "18: self_signed.enable: must be true or false",
        "18: self_signed.valid_days: must be 1 or more",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("listn: x", "listn: unknown key; did you mean listen?"),
        ("Storage: {}", "Storage: unknown key; did you mean storage?"),
        ("lets-encrypt: {}", "lets-encrypt: unknown key; did you mean lets_encrypt?"),
        ("storage: {redis: {adr: x}}", "storage.redis.adr: unknown key; did you mean addr?"),
        ("redis: {addr: x}", "redis: unknown key here; did you mean storage.redis?"),
        ("stagin: true", "stagin: unknown key here; did you mean lets_encrypt.staging?"),
        ("email: a@b.c", "email: unknown key here; did you mean lets_encrypt.email or acme[].email?"),
        ("kid: x", "kid: unknown key here; did you mean acme[].eab.kid?"),
        ("challenges: {dns_01: {}}", "challenges.dns_01: unknown key; did you mean dns01?"),
        (
            "challenges: {dns01: {zones: [{zone: a.b, provider: exec, options: {command: /bin/true}, option: {}}]}}",
            "challenges.dns01.zones[0].option: unknown key; did you mean options?",
        ),
        ("ask: {url: 'http://a', time_out: 1}", "ask.time_out: unknown key; did you mean timeout?"),
        (
            "acme: [{directory_url: 'https://a', limits: {new_order: 1/1s}}]",
            "acme[0].limits.new_order: unknown key; did you mean new_orders?",
        ),
        ("storage: {domains: []}", "storage.domains: unknown key here; did you mean domains or lets_encrypt.domains?"),
        (
            "managed: [{pattern: a, cert_key: b, k: c}]",
            "managed[0].k: unknown key; the keys here are pattern, cert_key",
        ),
        ("zzz: 1", f"zzz: unknown key; the keys here are {KEYS}"),
        (f"? {'z' * 5000}\n: 1", f"{'z' * 60}...: unknown key; the keys here are {KEYS}"),
        ('"a\\nb": 1', f'"a\\nb": unknown key; the keys here are {KEYS}'),
        ("? \n: 1", f'"": unknown key; the keys here are {KEYS}'),
    ],
)
def test_unknown_keys_name_the_nearest(text: str, expected: str) -> None:
    assert only_mistake(text) == f"1: {expected}"


@pytest.mark.parametrize(
    "text",
    [
        *("auth: {}", "tls: {}"),
    ],
)
def test_keys_of_later_versions_are_not_accepted_in_silence(text: str) -> None:
    assert "unknown key" in only_mistake(text)


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ("storage: x", "storage", "must be a section with keys of its own"),
        ("storage: {dir_cache: [x]}", "storage.dir_cache", "must be a path, not a list or a section"),
        ("pid_file: {a: b}", "pid_file", "must be a path, not a list or a section"),
        ('pid_file: "a\\0b"', "pid_file", HIDDEN),
        ('domains: ["a\\ud800"]', "domains[0]", HIDDEN),
        ("listen: []", "listen", "must have at least one entry"),
        ("listen: {a: b}", "listen", NOT_A_LIST),
        ("domains: a.example.com", "domains", NOT_A_LIST),
        ("domains: [~]", "domains[0]", "must not be empty"),
        ("domains: [[a]]", "domains[0]", "must be text, not a list or a section"),
        ("domains: [10.0.0.256]", "domains[0]", "invalid host name: IP addresses are not answered for"),
        ('domains: [""]', "domains[0]", "invalid host name: empty"),
        ("re_patterns: ['(?=a)']", "re_patterns[0]", "not a valid RE2 pattern: invalid perl operator"),
        ("re_patterns: ['']", "re_patterns[0]", "must not be empty"),
        ("local_ca: {names: []}", "local_ca.names", "must have at least one entry"),
        ("local_ca: {names: ['[']}", "local_ca.names[0]", "not a valid RE2 pattern: missing ]"),
        ("lets_encrypt: {staging: [x]}", "lets_encrypt.staging", "must be true or false"),
        ("self_signed: {organization: [x, '']}", "self_signed.organization[1]", "must be 1 to 64 bytes long"),
        (f"self_signed: {{organization: [{'ä' * 33}]}}", "self_signed.organization[0]", "must be 1 to 64 bytes long"),
        (
            "self_signed: {cert_key: acme_account+key}",
            "self_signed.cert_key",
            "this is where the ACME account's key is kept; choose another",
        ),
        ("acme: {directory_url: x}", "acme", NOT_A_LIST),
        ("acme: [~]", "acme[0]", "must not be empty"),
        ("acme: [{email: a@example.com}]", "acme[0].directory_url", "this key is required"),
        ("acme: [{directory_url: 'http://a.b'}]", "acme[0].directory_url", HTTPS_ONLY),
        (
            "acme: [{directory_url: 'https://u:p@ca.example.com'}]",
            "acme[0].directory_url",
            "must not hold a user name or password",
        ),
        (
            "acme: [{directory_url: https://a.b, ca_bundle: /nowhere/at/all}]",
            "acme[0].ca_bundle",
            "the file can't be read: no such file or directory",
        ),
    ],
)
def test_single_mistakes(text: str, path: str, message: str) -> None:
    assert only_mistake(text) == f"1: {path}: {message}"


@pytest.mark.parametrize(
    ("number", "message"),
    [
        ("soon", "must be a whole number"),
        ("[1]", "must be a whole number"),
        ("1.5", "must be a whole number"),
        ("0", "must be 1 or more"),
        ("36501", "must be 36500 or less"),
        ("9" * 5000, "must be a whole number of a sensible size"),
    ],
)
def test_numbers_of_days(number: str, message: str) -> None:
    assert only_mistake(f"lets_encrypt: {{renew_before: {number}}}") == f"1: lets_encrypt.renew_before: {message}"


@pytest.mark.parametrize("rest", ["//", "///dir", "//[::1", "//a:b/", "//a:0/", "//a/#b", "//a/ b", "a"])
def test_urls_that_are_none(rest: str) -> None:
    assert only_mistake(f"acme: [{{directory_url: 'https:{rest}'}}]") == (
        "1: acme[0].directory_url: must be a URL like https://ca.example.com/directory"
    )


@pytest.mark.parametrize("host", ["localhost", "127.1.2.3:14000", "[::1]:14000"])
def test_a_ca_on_this_machine_may_do_without_https(host: str) -> None:
    parse_config(f"acme: [{{directory_url: 'http://{host}/dir'}}]", "c")


@pytest.mark.parametrize("address", ["a", "@a.com", "a@", "a@b", "a b@a.com", "a@b@a.com", "a?b@a.com", "a@-.com"])
def test_mail_addresses_that_are_none(address: str) -> None:
    assert only_mistake(f'lets_encrypt: {{email: "{address}"}}') == (
        "1: lets_encrypt.email: must be a mail address like admin@example.com"
    )


@pytest.mark.parametrize("key", ["a/b", "..", ".hidden", "_ours", "a b", "ä", "a\\b", 201 * "a", "/"])
def test_storage_keys_that_would_be_dangerous(key: str) -> None:
    assert only_mistake(f"managed: [{{pattern: a, cert_key: '{key}'}}]") == f"1: managed[0].cert_key: {STORAGE_KEY}"


def test_a_ca_bundle_must_hold_certificates(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.pem"
    bundle.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    text = "acme: [{{directory_url: https://ca.example.com, ca_bundle: '{}'}}]"
    mistake = "1: acme[0].ca_bundle: the file must hold certificates in PEM"
    assert only_mistake(text.format(bundle)) == mistake
    device = "1: acme[0].ca_bundle: the file can't be read: it is a device, not a regular file"
    assert only_mistake(text.format("/dev/zero")) == device
    assert only_mistake(text.format(tmp_path)) == "1: acme[0].ca_bundle: the file can't be read: is a directory"


def test_the_same_address_twice_is_seen_in_any_spelling() -> None:
    assert mistakes('listen: ["[::1]:80", "[0::1]:80", "[::1]:80"]') == [
        "1: listen[1]: the same address as listen[0]",
        "1: listen[2]: the same address as listen[0]",
    ]


def test_values_are_never_shown() -> None:
    text = """
        storage: {type: hunter2, password: hunter2, redis: {addr: [hunter2], password: hunter2}}
        listen: hunter2
        auth: {token: hunter2}
        lets_encrypt: {email: hunter2, staging: hunter2, renew_before: hunter2, domains: [hunter2_]}
        re_patterns: ['(hunter2']
        acme: [{directory_url: 'http://hunter2', eab: {hmac_key: 'hunter2+'}}]
        ask: {url: 'https://u:hunter2@a'}
        challenges: {dns01: {provider: lexicon:cloudflare, options: {auth_tokn: hunter2}}}
        on_demand: {issuances: hunter2}
    """
    found = mistakes(text)
    assert len(found) == 17
    assert "hunter2" not in "\n".join(found)


class TestTakenKeys:
    """A certificate that isn't ACME's, under a key at which ACME's would be written."""

    message = "certificates by ACME for the name of the same spelling are kept under this key; choose another"

    @pytest.mark.parametrize(
        "permitting",
        [
            "domains: [a.example]",
            "domains: [other.example, A.Example.]",
            "lets_encrypt: {domains: [a.example]}",
            "ask: {url: 'http://127.0.0.1/'}",
            r"re_patterns: ['.+\.example']",
            r"lets_encrypt: {re_patterns: ['[ab]\.example']}",
        ],
    )
    @pytest.mark.parametrize("suffix", ["", "+rsa"])
    @pytest.mark.parametrize(
        ("section", "path"),
        [
            ("managed: [{pattern: x, cert_key: fine}, {pattern: y, cert_key: KEY}]", "managed[1].cert_key"),
            ("self_signed: {cert_key: KEY}", "self_signed.cert_key"),
        ],
    )
    def test_is_told_at_the_key(self, section: str, path: str, suffix: str, permitting: str) -> None:
        text = f"{permitting}\n{section.replace('KEY', 'a.example' + suffix)}"
        assert only_mistake(text) == f"2: {path}: {self.message}"

    @pytest.mark.parametrize("name", ["*.example.com", "192.0.2.1", "2001:db8::1"])
    def test_wildcards_and_addresses_have_keys_too(self, name: str) -> None:
        text = f"""{{
            domains: ["192.0.2.1", "2001:DB8:0::1"],
            wildcards: ["*.Example.com"],
            challenges: {{dns01: {{provider: exec, options: {{command: /bin/true}}}}}},
            self_signed: {{cert_key: '{name}'}}}}
        """
        assert only_mistake(text) == f"5: self_signed.cert_key: {self.message}"

    def test_an_international_name_is_compared_as_it_is_kept(self) -> None:
        text = "domains: [bücher.example]\nself_signed: {cert_key: xn--bcher-kva.example}"
        assert only_mistake(text) == f"2: self_signed.cert_key: {self.message}"

    @pytest.mark.parametrize(
        "text",
        [
            # another name, or a part of one
            "domains: [a.example]\nself_signed: {cert_key: b.example}",
            "re_patterns: ['a']\nself_signed: {cert_key: a.example}",
            # no host name, though the pattern matches it
            "re_patterns: ['.+']\nself_signed: {cert_key: self_signed}",
            "re_patterns: ['.+']\nself_signed: {cert_key: A.Example}",
            "re_patterns: ['.+']\nself_signed: {cert_key: a.example+rsa+rsa}",
            # nobody is asked about addresses and names without a dot
            "ask: {url: 'http://127.0.0.1/'}\nself_signed: {cert_key: 192.0.2.1}",
            "ask: {url: 'http://127.0.0.1/'}\nself_signed: {cert_key: fallback}",
            "re_patterns: ['.+']\nself_signed: {cert_key: 192.0.2.1}",
            # managed is looked at first: no ACME certificate for that name
            "re_patterns: ['.+']\nmanaged: [{pattern: 'a\\.example', cert_key: a.example}]",
            "domains: [a.example]\nmanaged: [{pattern: 'b', cert_key: a.example}, {pattern: 'a.+', cert_key: b+rsa}]",
        ],
    )
    def test_is_not_seen_where_there_is_none(self, text: str) -> None:
        parse_config(text, "c")

    @pytest.mark.parametrize(
        "text",
        [
            're_patterns: ["\\ud800"]\nself_signed: {cert_key: a}',
            "re_patterns: ['(']\nself_signed: {cert_key: a}",
            "domains: [a_b]\nself_signed: {cert_key: a}",
            "domains: a\nself_signed: {cert_key: a}",
            "lets_encrypt: [a]\nself_signed: {cert_key: a}",
            "re_patterns: [a]\nself_signed: [a]",
            "re_patterns: [a]\nmanaged: {cert_key: a}",
            "re_patterns: [a]\nmanaged: [a]",
        ],
    )
    def test_other_mistakes_do_not_hide_behind_it(self, text: str) -> None:
        assert not any(self.message in mistake for mistake in mistakes(text))
