"""How control is proven, and names for which it can't be."""

from __future__ import annotations

import pytest

from ssl_cert_server.config.addresses import TcpAddress
from ssl_cert_server.config.challenges import Challenges
from ssl_cert_server.config.load import parse_config
from ssl_cert_server.config.schema import Config
from tests.unit.config.support import mistakes, only_mistake

NOTHING = "none is enabled, so that nothing can be issued; enable http01, tls_alpn01 or dns01"
NO_HTTP = "challenges: {http01: false"
NAMESERVER = "must be an IP address, alone or with a port: 192.0.2.53, 192.0.2.53:5353 or [2001:db8::53]:5353"
TCP = "must be host:port or [IPv6 address]:port, with a port from 0 to 65535"
EXEC = "provider: exec, options: {command: /bin/true}"
PERMITTING = [
    "domains: [a.example]",
    "re_patterns: ['a']",
    "lets_encrypt: {domains: [a.example]}",
    "lets_encrypt: {re_patterns: ['a']}",
    "ask: {url: 'http://127.0.0.1/'}",
]


def challenges(text: str) -> Challenges:
    return parse_config(f"challenges: {{{text}}}", "c").challenges


def test_http_01_alone_is_what_there_is_without_a_word() -> None:
    found = Config().challenges
    assert (found.http01, found.tls_alpn01.enable, found.dns01.enabled) == (True, False, False)


@pytest.mark.parametrize(
    ("written", "enabled", "listen"),
    [
        ("{enable: true}", True, []),
        ("{listen: ':443'}", True, [TcpAddress("", 443)]),
        ("{enable: , listen: ['127.0.0.1:1', '[::1]:1']}", True, [TcpAddress("127.0.0.1", 1), TcpAddress("::1", 1)]),
        ("{enable: false, listen: ':443'}", False, [TcpAddress("", 443)]),
        ("{listen: []}", False, []),
        ("{listen: }", False, []),
    ],
)
def test_listening_for_tls_alpn_01_enables_it(written: str, enabled: bool, listen: list[TcpAddress]) -> None:
    found = challenges(f"tls_alpn01: {written}").tls_alpn01
    assert (found.enable, list(found.listen)) == (enabled, listen)


@pytest.mark.parametrize(
    ("written", "path"), [("unix:/a", ""), ("443", ""), ("[unix:/a]", "[0]"), ("[':1', ':65536']", "[1]")]
)
def test_it_listens_on_tcp_only(written: str, path: str) -> None:
    assert only_mistake(f"challenges: {{tls_alpn01: {{listen: {written}}}}}") == (
        f"1: challenges.tls_alpn01.listen{path}: {TCP}"
    )


def test_an_address_is_listened_on_once() -> None:
    text = "listen: ':1'\nchallenges: {tls_alpn01: {listen: [':2', ':1', ':2', ':0', ':0']}}"
    assert mistakes(text) == [
        "2: challenges.tls_alpn01.listen[1]: the same address as listen",
        "2: challenges.tls_alpn01.listen[2]: the same address as challenges.tls_alpn01.listen[0]",
    ]


@pytest.mark.parametrize("permitting", PERMITTING)
def test_names_that_nothing_can_prove(permitting: str) -> None:
    assert only_mistake(f"{permitting}\n{NO_HTTP}}}") == f"2: challenges: {NOTHING}"
    assert only_mistake(f"{permitting}\n{NO_HTTP}, dns01: {{propagation_timeout: 9}}}}") == f"2: challenges: {NOTHING}"


@pytest.mark.parametrize("permitting", PERMITTING)
@pytest.mark.parametrize(
    "other",
    [
        "tls_alpn01: {enable: true}",
        "tls_alpn01: {listen: ':0'}",
        f"dns01: {{{EXEC}}}",
        f"dns01: {{zones: [{{zone: a.b, {EXEC}}}]}}",
    ],
)
def test_names_that_another_challenge_proves(permitting: str, other: str) -> None:
    parse_config(f"{permitting}\n{NO_HTTP}, {other}}}", "c")


def test_nothing_needs_to_be_proven_where_nothing_is_permitted() -> None:
    parse_config(f"{NO_HTTP}}}\ndomains: []\nre_patterns:\nask:", "c")


@pytest.mark.parametrize("domains", ["domains: [a.b, 192.0.2.1]", "lets_encrypt: {domains: [a.b, '[2001:db8::1]']}"])
def test_addresses_can_not_be_proven_in_dns(domains: str) -> None:
    path = "domains[1]" if domains.startswith("domains") else "lets_encrypt.domains[1]"
    dns01 = f"dns01: {{{EXEC}}}"
    assert only_mistake(f"{domains}\n{NO_HTTP}, {dns01}}}") == (
        f"1: {path}: control of an IP address is proven by http01 or tls_alpn01; enable one of them"
    )
    parse_config(f"{domains}\n{NO_HTTP}, {dns01}, tls_alpn01: {{enable: true}}}}", "c")


class TestWildcards:
    """Wildcards are proven in DNS, by whoever changes their zone, or one that they are delegated into."""

    @staticmethod
    def zones(*names: str) -> str:
        listed = ", ".join(f"{{zone: {name}, {EXEC}}}" for name in names)
        return f"challenges: {{dns01: {{zones: [{listed}]}}}}"

    @staticmethod
    def needs(name: str) -> str:
        return f"1: wildcards[0]: {name} needs dns-01; give a provider in challenges.dns01"

    @pytest.mark.parametrize("rest", ["", "challenges: {tls_alpn01: {enable: true}}"])
    def test_need_a_provider(self, rest: str) -> None:
        assert only_mistake(f"wildcards: ['*.A.example']\n{rest}") == self.needs("*.a.example")

    @pytest.mark.parametrize("zone", ["b.example", "b.a.example", "acme.mine.net"])
    def test_may_be_delegated_into_any_zone(self, zone: str) -> None:
        parse_config(f"wildcards: ['*.a.example']\n{self.zones(zone)}", "c")

    @pytest.mark.parametrize("zone", ["A.example.", "example", "_acme-challenge.a.example"])
    def test_are_content_with_any_zone_that_holds_them(self, zone: str) -> None:
        parse_config(f"wildcards: ['*.a.example']\n{self.zones('other.example', zone)}", "c")

    def test_are_content_with_the_provider_for_every_zone(self) -> None:
        parse_config(f"wildcards: ['*.a.example']\nchallenges: {{dns01: {{{EXEC}}}}}", "c")

    def test_a_mistake_in_the_challenges_is_told_alone(self) -> None:
        assert only_mistake("wildcards: ['*.a.example']\nchallenges: {http: true}") == (
            "2: challenges.http: unknown key; did you mean http01?"
        )


class TestDns01:
    """Providers, their options, and whom to ask whether a value is there."""

    def test_a_provider_for_the_rest_and_others_by_zone(self) -> None:
        found = challenges(f"""dns01: {{
            {EXEC}, nameservers: ["192.0.2.53"], propagation_timeout: 9, zones: [
            {{zone: example.org, provider: httpreq, options: {{endpoint: 'http://127.0.0.1:5000/', password_file: p}},
              nameservers: ["192.0.2.53:5353", "2001:db8::53", "[2001:db8::53]:5353"]}}]}}""").dns01
        assert (found.provider, found.nameservers, found.propagation_timeout) == ("exec", (("192.0.2.53", 53),), 9)
        (zone,) = found.zones
        assert (zone.zone, zone.provider) == ("example.org", "httpreq")
        assert zone.plain_options == {"endpoint": "http://127.0.0.1:5000/", "password_file": "p"}
        assert zone.nameservers == (("192.0.2.53", 5353), ("2001:db8::53", 53), ("2001:db8::53", 5353))

    def test_options_never_show(self) -> None:
        config = parse_config("challenges: {dns01: {provider: exec, options: {command: /bin/true hunter2}}}", "c")
        assert "hunter2" not in repr(config)
        assert "hunter2" not in str(config)

    @pytest.mark.parametrize(
        "written",
        ["ns.example.org", "192.0.2.53:0", "192.0.2.53:65536", "", "[192.0.2.53]", ":53", "192.0.2", "::1]:53"],
    )
    def test_nameservers_are_addresses(self, written: str) -> None:
        assert only_mistake(f"challenges: {{dns01: {{nameservers: ['{written}']}}}}") == (
            f"1: challenges.dns01.nameservers[0]: {NAMESERVER}"
        )

    def test_zones_are_listed_once(self) -> None:
        zones = f"[{{zone: a.b, {EXEC}}}, {{zone: B.c, {EXEC}}}, {{zone: b.c., {EXEC}}}]"
        assert only_mistake(f"challenges: {{dns01: {{zones: {zones}}}}}") == (
            "1: challenges.dns01.zones[2].zone: the same zone as challenges.dns01.zones[1]"
        )

    @pytest.mark.parametrize(
        ("written", "expected"),
        [
            ("zones: [{zone: a.b}]", "zones[0].provider: this key is required"),
            (f"zones: [{{{EXEC}}}]", "zones[0].zone: this key is required"),
            ("zones: {zone: a.b}", "zones: must be a list: [one, two], or one entry a line, each after a dash"),
            ("provider: exec, options: x", "options: must be a section with keys of its own"),
            ("propagation_timeout: 0", "propagation_timeout: must be 1 or more"),
            ("propagation_timeout: 3601", "propagation_timeout: must be 3600 or less"),
        ],
    )
    def test_mistakes(self, written: str, expected: str) -> None:
        assert only_mistake(f"challenges: {{dns01: {{{written}}}}}") == f"1: challenges.dns01.{expected}"

    def test_empty_options_count_as_left_out(self) -> None:
        written = "provider: exec, options: {command: /bin/true, timeout: , x: ''}"
        assert challenges(f"dns01: {{{written}}}").dns01.plain_options == {"command": "/bin/true"}

    def test_providers_say_themselves_what_is_wrong_with_each_line(self) -> None:
        text = """
challenges:
  dns01:
    provider: lexicon:cloudflare
    options:
      auth_tokn: x
    zones:
      - zone: a.example
        provider: lexicon:clodflare
      - zone: b.example
        provider: rfc2136
        options:
          tsig_name: acme.example
          server: not one
          tsig_secret_file: /nowhere
          tsig_secret_env: NOWHERE
      - zone: c.example
        provider: route66
      - zone: d.example
        provider: httpreq
"""
        assert mistakes(text) == [
            "6: challenges.dns01.options.auth_tokn: unknown option; did you mean auth_token?",
            "9: challenges.dns01.zones[0].provider: unknown dns-lexicon provider; did you mean cloudflare?",
            "12: challenges.dns01.zones[1].options: tsig_secret: give only one of tsig_secret_env, tsig_secret_file",
            "14: challenges.dns01.zones[1].options.server: must be host:port, like ns1.example.com:53 or "
            "[2001:db8::1]:53",
            "18: challenges.dns01.zones[2].provider: unknown provider; there are rfc2136, exec, httpreq, acme-dns, "
            "lexicon:NAME",
            "19: challenges.dns01.zones[3].options: endpoint: is missing; give it, or endpoint_file or endpoint_env",
        ]

    def test_secrets_are_left_to_who_starts_the_server(self) -> None:
        options = {"server": "127.0.0.1:53", "tsig_name": "acme.example", "tsig_secret_file": "/nowhere"}
        assert challenges(f"dns01: {{provider: rfc2136, options: {options}}}").dns01.plain_options == options

    def test_options_that_nothing_reads(self) -> None:
        assert only_mistake("challenges: {dns01: {options: {a: b}}}") == (
            "1: challenges.dns01.options: without a provider, nothing reads these"
        )

    @pytest.mark.parametrize(
        ("written", "expected"),
        [
            ('provider: "exec\\n"', "provider"),
            ('provider: exec, options: {command: "/bin/true\\n"}', "options.command"),
            ("provider: exec, options: {command: [/bin/true]}", "options.command"),
        ],
    )
    def test_what_is_no_text_is_told_once(self, written: str, expected: str) -> None:
        assert only_mistake(f"challenges: {{dns01: {{{written}}}}}").startswith(f"1: challenges.dns01.{expected}: ")
