"""Host names: one spelling for each, and nothing hostile past normalize_name."""

from __future__ import annotations

import ipaddress
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ssl_cert_server.errors import InvalidName
from ssl_cert_server.pki.names import covers, is_ip, normalize_identifier, normalize_name, reverse_name
from ssl_cert_server.storage.base import check_key

LABEL_63 = "a" * 63
NAME_253 = ".".join([LABEL_63, LABEL_63, LABEL_63, "a" * 61])

SPELLINGS = [
    ("example.com", "example.com"),
    ("EXAMPLE.com", "example.com"),
    ("example.com.", "example.com"),
    ("EXAMPLE.COM.", "example.com"),
    ("localhost", "localhost"),
    ("a", "a"),
    ("1.example.com", "1.example.com"),
    ("3com.com", "3com.com"),
    ("example.123a", "example.123a"),
    ("a--b.example.com", "a--b.example.com"),
    (f"{LABEL_63}.com", f"{LABEL_63}.com"),
    (NAME_253, NAME_253),
    (f"{NAME_253}.", NAME_253),
    # IDNA, UTS 46
    ("münchen.de", "xn--mnchen-3ya.de"),
    ("MÜNCHEN.de", "xn--mnchen-3ya.de"),
    ("mu\u0308nchen.de", "xn--mnchen-3ya.de"),
    ("xn--mnchen-3ya.de", "xn--mnchen-3ya.de"),
    ("XN--MNCHEN-3YA.DE", "xn--mnchen-3ya.de"),
    ("www.xn--mnchen-3ya.de.", "www.xn--mnchen-3ya.de"),
    ("\uff58\uff4e--mnchen-3ya.de", "xn--mnchen-3ya.de"),
    ("例え.テスト", "xn--r8jz45g.xn--zckzah"),
    ("אב.example", "xn--4dbc.example"),
    # non-transitional: these four stay what they are
    ("faß.de", "xn--fa-hia.de"),
    ("xn--fa-hia.de", "xn--fa-hia.de"),
    ("\u03c2.gr", "xn--3xa.gr"),
    ("\u03c3.gr", "xn--4xa.gr"),
    # other full stops, full-width letters, what UTS 46 maps or ignores
    ("example\u3002com", "example.com"),
    ("example\u3002com\u3002", "example.com"),
    ("example\uff0ecom", "example.com"),
    ("example\uff61com", "example.com"),
    ("\uff45xample.com", "example.com"),
    ("exam\u00adple.com", "example.com"),
    ("\u212aelvin.com", "kelvin.com"),
    ("①.com", "1.com"),
    # what idna.Lookup of Go gives, which the predecessor used: symbols and emoji too
    ("☃.net", "xn--n3h.net"),
    ("i❤.ws", "xn--i-7iq.ws"),
    ("xn--ls8h.la", "xn--ls8h.la"),
    ("\U0001f4a9.la", "xn--ls8h.la"),
    ("ß.de", "xn--zca.de"),
    ("a\u3002b", "a.b"),
    ("\u0646\u0627\u0645\u0647\u200c\u0627\u06cc.com", "xn--mgba3gch31f060k.com"),
    ("xn--mgba3gch31f060k.com", "xn--mgba3gch31f060k.com"),
    ("א1.com", "xn--1-zhc.com"),
    ("İ.com", "xn--i-9bb.com"),
    ("e\u0301.com", "xn--9ca.com"),
    ("\uff10.com", "0.com"),
]

REFUSED = {
    "empty": "",
    "the root": ".",
    "an ideographic full stop alone": "\u3002",
    "two dots": "..",
    "a leading dot": ".example.com",
    "an inner empty label": "a..example.com",
    "two trailing dots": "example.com..",
    "two trailing dots of different kinds": "example.com.\u3002",
    "300 bytes": "a" * 300,
    "a million characters": "ä" * 1_000_000,
    "254 characters": f"{NAME_253}a",
    "a label of 64": f"{'a' * 64}.com",
    "a U-label that is too long as an A-label": "ä" * 60 + ".de",
    "NUL": "example\0.com",
    "NUL at the end": "example.com\0",
    "newline at the end": "example.com\n",
    "a space": "exam ple.com",
    "parent directory": "../etc/passwd",
    "only a parent directory": "..",
    "a slash": "a/b.com",
    "a backslash": "a\\b.com",
    "a full-width slash": "a\uff0fb.com",
    "a percent escape": "a%2fb.com",
    "a port": "example.com:443",
    "a user": "me@example.com",
    "a plus, as in storage keys": "example.com+rsa",
    "an underscore": "_dmarc.example.com",
    "an inner underscore": "a_b.example.com",
    "a wildcard": "*.example.com",
    "a wildcard with a U-label": "*.münchen.de",
    "a leading hyphen": "-a.com",
    "a trailing hyphen": "a-.com",
    "a trailing hyphen of a U-label": "ä-.com",
    "IPv4": "192.0.2.1",
    "IPv4 with a dot": "192.0.2.1.",
    "IPv4 as one number": "3221225985",
    "IPv4 in hexadecimal": "0xc0000201",
    "IPv4 with a hexadecimal part": "192.0.2.0x1",
    "IPv4 with an empty hexadecimal part": "192.0.2.0x",
    "five numbers": "1.2.3.4.5",
    "a numeric last label": "example.1",
    "IPv4 in full-width digits": "\uff11\uff19\uff12.\uff10.\uff12.\uff11",
    "IPv4 with ideographic full stops": "192\u30020\u30022\u30021",
    "circled digits": "①.②.③.④",
    "IPv6": "2001:db8::1",
    "IPv6 loopback": "::1",
    "IPv6 in brackets": "[2001:db8::1]",
    "nothing behind xn--": "xn--.com",
    "punycode that is none": "xn--\u00fc.com",
    "punycode of ASCII": "xn--abc-.com",
    "punycode of a code point that is not allowed": "xn--a.com",
    "a lone surrogate": "\ud800.com",
    "mixed directions": "אa.com",
    "a zero-width joiner out of place": "a\u200db.com",
    "a zero-width joiner within emoji": "\U0001f3f3\ufe0f\u200d\U0001f308.com",
    "a zero-width joiner out of place, as an A-label": "xn--ab-m1t.com",
    "a right-to-left label that begins with a digit": "1א.com",
    "an Arabic digit alone": "\u0661.com",
    "a combining mark at the beginning": "\u0301a.com",
    "a spacing accent, which maps to a space": "\u00b4.com",
    "an A-label that another one stands for": "xn--zz--.com",
    "an A-label of a capital letter": "xn--bcher-2pa.com",
    "an A-label of a circled digit": "xn--orh.com",
    "a soft hyphen alone": "\u00ad",
    "an unassigned code point": "\U000e0080.com",
}

LDH = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")

_labels = st.text(
    st.sampled_from(
        "aAzZ09-_*.xnXN ßäÄİıſ①\u03c2\u03c3\uff11\u3002\uff0e\uff0f/\\\0\u00ad\u200c\u200d\u0308\u05d0\u0661\ud800"
    )
    | st.characters(),
    max_size=12,
)
hostile_names = st.one_of(
    st.text(max_size=260),
    st.lists(_labels, max_size=6).map(".".join),
    st.lists(_labels.map(lambda label: f"xn--{label}"), max_size=4).map(".".join),
    st.ip_addresses().map(str),
)


@pytest.mark.parametrize(("raw", "name"), SPELLINGS)
def test_every_spelling_gives_the_one_name(raw: str, name: str) -> None:
    assert normalize_name(raw) == name


@pytest.mark.parametrize("raw", REFUSED.values(), ids=REFUSED.keys())
def test_refuses(raw: str) -> None:
    with pytest.raises(InvalidName) as refusal:
        normalize_name(raw)
    message = str(refusal.value)
    assert message.startswith("invalid host name: ")
    assert len(message) < 120, "a stranger's name is not echoed, however long it is"
    assert message.isprintable()


@given(hostile_names)
@example("İ.com")
@example("xn--a\u0308.com")
@example("\uff58n--fa-hia.de")
@example("a.com\u3002.")
def test_a_normalised_name_is_ldh_and_stays_itself(raw: str) -> None:
    try:
        name = normalize_name(raw)
    except InvalidName:
        return
    assert LDH.fullmatch(name)
    assert len(name) <= 253
    assert not name.rpartition(".")[2].isdigit()
    assert normalize_name(name) == name
    assert normalize_name(name.upper() + ".") == name
    assert check_key(name) == [name], "it is one file in storage, whatever it was before"


@pytest.mark.parametrize(
    ("san", "name", "covered"),
    [
        ("example.com", "example.com", True),
        ("example.com", "www.example.com", False),
        ("www.example.com", "example.com", False),
        ("*.example.com", "www.example.com", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", "a.b.example.com", False),
        ("*.example.com", "www.example.com.attacker.net", False),
        ("*.example.com", "wwwexample.com", False),
        ("*.com", "example.com", True),
        ("*", "localhost", False),
        ("*.", "localhost", False),
        ("w*.example.com", "www.example.com", False),
        ("www.*.com", "www.example.com", False),
        ("*.*.com", "www.example.com", False),
        ("*.example.com", "*.example.com", True),
        ("", "example.com", False),
        ("192.0.2.1", "192.0.2.1", True),
        ("2001:db8::1", "2001:db8::1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("*.0.2.1", "192.0.2.1", False),
    ],
)
def test_a_wildcard_covers_one_whole_left_most_label(san: str, name: str, covered: bool) -> None:
    assert covers(san, name) is covered


# --- IP addresses


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("255.255.255.255", "255.255.255.255"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("2001:0DB8:0000:0000:0000:0000:0000:0001", "2001:db8::1"),
        ("2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"),  # RFC 5952 section 4.2.3: the first of the longest
        ("2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"),  # and never for a single field
        ("::", "::"),
        ("[::1]", "::1"),
        ("2001:db8::192.0.2.1", "2001:db8::c000:201"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("[::FFFF:c000:0201]", "192.0.2.1"),
        ("EXAMPLE.com.", "example.com"),
        ("m\u00fcnchen.de", "xn--mnchen-3ya.de"),
    ],
)
def test_every_spelling_gives_the_one_identifier(raw: str, name: str) -> None:
    assert normalize_identifier(raw) == name


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "[]",
        "[192.0.2.1]",
        "[2001:db8::1",
        "2001:db8::1]",
        "[[2001:db8::1]]",
        "[2001:db8::1]:443",
        "192.0.2.1:443",
        "192.0.2.1.",
        "192.0.2.01",
        "192.0.2.256",
        "192.0.2",
        "3221225985",
        "0xc0000201",
        "1.2.3.4.5",
        "192.0.2.0/24",
        "fe80::1%eth0",
        "[fe80::1%25eth0]",
        "2001:db8::1::2",
        "2001:db8::12345",
        ":",
        " 192.0.2.1",
        "192.0.2.1\n",
        "\u0661\u0669\u0662.0.2.1",
        "\uff11\uff19\uff12.0.2.1",
        "*.example.com",
        "[example.com]",
        "1" * 100_000,
        ":" * 100_000,
        "1." * 100_000,
    ],
)
def test_refuses_what_is_neither_name_nor_address(raw: str) -> None:
    with pytest.raises(InvalidName) as refusal:
        normalize_identifier(raw)
    assert len(str(refusal.value)) < 120
    assert str(refusal.value).isprintable()


@given(st.ip_addresses())
def test_an_address_stays_itself_and_is_one_file_in_storage(address: ipaddress.IPv4Address) -> None:
    name = normalize_identifier(str(address))
    assert normalize_identifier(name) == name == name.lower()
    assert is_ip(name)
    assert covers(name, name)
    assert check_key(name) == [name]
    if ":" in name:
        assert normalize_identifier(f"[{name}]") == name
        assert normalize_identifier(address.exploded.upper()) == name


@given(hostile_names)
def test_an_identifier_is_a_name_or_an_address_and_never_both(raw: str) -> None:
    try:
        name = normalize_identifier(raw)
    except InvalidName:
        return
    assert normalize_identifier(name) == name
    assert is_ip(name) != bool(LDH.fullmatch(name) and not name.rpartition(".")[2].isdigit())
    if not is_ip(name):
        assert normalize_name(raw) == name


@given(st.text() | st.ip_addresses().map(str), st.text() | st.ip_addresses().map(str))
def test_an_address_is_covered_by_itself_alone(san: str, name: str) -> None:
    if is_ip(name):
        assert covers(san, name) is (san == name)
        assert not covers("*." + name.partition(".")[2], name)


_label = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,5}[a-z0-9])?", fullmatch=True)
_hosts = st.lists(_label, min_size=1, max_size=4).map(lambda labels: ".".join([*labels, "example"]))


@given(_hosts, _label)
def test_a_wildcard_covers_each_label_under_its_parent_and_nothing_else(parent: str, label: str) -> None:
    wildcard = f"*.{parent}"
    assert covers(wildcard, f"{label}.{parent}")
    assert covers(wildcard, wildcard)
    for other in (parent, f"x.{label}.{parent}", f"{label}{parent}", f"{label}.{parent}.example", f"{label}-{parent}"):
        assert not covers(wildcard, other)


@pytest.mark.parametrize(
    ("ip", "name"),
    [
        ("192.0.2.1", "1.2.0.192.in-addr.arpa"),
        # RFC 8738 section 6
        ("2001:db8::1", "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa"),
    ],
)
def test_reverse_names(ip: str, name: str) -> None:
    assert reverse_name(ip) == name
    assert normalize_name(name) == name, "it is a host name, as an SNI is"


@pytest.mark.parametrize("name", ["example.com", "1.example", "*.example.com", "", "192.0.2", "[::1]", "192.0.2.1."])
def test_what_is_no_address(name: str) -> None:
    assert not is_ip(name)
