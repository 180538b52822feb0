from __future__ import annotations

import ipaddress

import pytest

from ssl_cert_server.service.public_ips import PublicIps

OURS = PublicIps(["203.0.113.1", "2001:db8:1::/48", ipaddress.ip_network("198.51.100.0/24")])


def test_knows_whether_it_knows_any() -> None:
    assert OURS
    assert not PublicIps([])


@pytest.mark.parametrize("entry", ["", "example.com", "203.0.113.0/33", "203.0.113.1:80"])
def test_what_is_no_address_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="does not appear to be"):
        PublicIps([entry])


@pytest.mark.parametrize(
    "addresses",
    [
        ["203.0.113.1"],
        ["198.51.100.77"],
        ["2001:db8:1::77"],
        ["203.0.113.1", "198.51.100.1", "2001:db8:1:2::3"],
    ],
)
def test_nothing_to_object_where_every_address_is_ours(addresses: list[str]) -> None:
    assert OURS.objection("a.com", addresses) == ""


@pytest.mark.parametrize(
    ("addresses", "where"),
    [
        (["203.0.113.2"], "203.0.113.2, which is none of"),
        (["203.0.113.1", "203.0.113.2"], "203.0.113.2, which is none of"),
        (["192.0.2.1", "192.0.2.2"], "192.0.2.1, 192.0.2.2, which are none of"),
        (
            [f"192.0.2.{n}" for n in range(6)],
            "192.0.2.0, 192.0.2.1, 192.0.2.2, 192.0.2.3 and 2 more, which are none of",
        ),
    ],
)
def test_addresses_of_others_are_named(addresses: list[str], where: str) -> None:
    assert OURS.objection("a.com", addresses) == (
        f"a.com points to {where} public_ips (203.0.113.1, 2001:db8:1::/48, 198.51.100.0/24): "
        "its owner has to change the A record"
    )


def test_the_record_to_change_is_named() -> None:
    only_v4 = PublicIps(["203.0.113.1"])
    assert only_v4.objection("a.com", ["203.0.113.1", "2001:db8::1"]).endswith("has to change the AAAA record")
    assert only_v4.objection("a.com", ["2001:db8::1", "192.0.2.1"]).endswith("has to change the A and AAAA record")


def test_a_name_without_addresses() -> None:
    assert PublicIps(["203.0.113.1"]).objection("a.com", []) == (
        "a.com has no A or AAAA record: its owner has to point it to one of public_ips (203.0.113.1)"
    )


@pytest.mark.parametrize("ip", ["192.0.2.1", "2001:db8::1"])
def test_an_address_of_others_as_the_name(ip: str) -> None:
    assert PublicIps(["203.0.113.1"]).objection(ip, [ip]) == (
        f"{ip} is none of public_ips (203.0.113.1): name it there if a CA reaches us at it"
    )
