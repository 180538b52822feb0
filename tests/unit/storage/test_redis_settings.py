"""What an operator may write about Redis, what of it can't be, and what a refusal of Redis's says."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis import exceptions

from ssl_cert_server.errors import StorageError
from ssl_cert_server.storage.redis.failures import code_of, is_not_the_primary, message_of
from ssl_cert_server.storage.redis.keys import Keys
from ssl_cert_server.storage.redis.settings import SENTINEL_PORT, Address, RedisSettings, parse_address

ADDRESSES = {
    "10.0.0.1:6380": Address("10.0.0.1", 6380),
    "redis.example": Address("redis.example"),
    ":6380": Address("localhost", 6380),
    "": Address(),
    "[::1]:6380": Address("::1", 6380),
    "redis://h": Address("h"),
    "redis://h:1/2": Address("h", 1, db=2),
    "redis://h:1/?db=2": Address("h", 1, db=2),
    "redis://h:1/": Address("h", 1),
    "REDISS://h": Address("h", tls=True),
    "rediss://u%40:p%3a@h:1/3": Address("h", 1, tls=True, db=3, username="u@", password="p:"),
    "redis://:p@h": Address("h", password="p"),
    "unix:///run/redis.sock": Address("", 0, "/run/redis.sock"),
    "unix://u:p@/run/a%20b?db=1": Address("", 0, "/run/a b", db=1, username="u", password="p"),
}
NO_ADDRESSES = [
    "http://h",
    "redis://h:0",
    "redis://h:port",
    "redis://h:70000",
    "redis://h/one",
    "redis://h/-1",
    "redis://h/1/2",
    "redis://h?timeout=1",
    "unix://run/redis.sock",
    "unix://run/redis.sock?db=1",
    "unix://",
]


@pytest.mark.parametrize(("text", "address"), ADDRESSES.items())
def test_an_address_is_taken_apart(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", NO_ADDRESSES)
def test_what_is_no_address_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ValueError, match=r"must|only db"):
        parse_address(text)
    with pytest.raises(ValueError, match=r"must|only db") as failure:
        parse_address(text.replace("://", "://u:secret@"))
    assert "secret" not in str(failure.value)


def test_an_address_is_shown_without_its_password() -> None:
    for text, shown in [("redis://u:secret@h:1", "h:1"), ("redis://:secret@[::1]", "[::1]:6379"), ("unix:///s", "/s")]:
        address = parse_address(text)
        assert str(address) == shown
        assert "secret" not in repr(address)


def test_sentinels_have_a_port_of_their_own() -> None:
    settings = RedisSettings(sentinels=("a", "rediss://b:1"), master_name="main")
    assert settings.sentinel_addresses() == [Address("a", SENTINEL_PORT), Address("b", 1, tls=True)]
    assert settings.problems() == []


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        (RedisSettings(), []),
        (RedisSettings(addr="a:1,b:2", cluster=True, prefix="certs{x}:"), []),
        (RedisSettings(addr="a:1,b:2"), ["addr"]),
        (RedisSettings(addr="a:x"), ["addr"]),
        (RedisSettings(sentinels=("a",)), ["master_name"]),
        (RedisSettings(master_name="a"), ["master_name"]),
        (RedisSettings(sentinels=("a:x",), master_name="a"), ["sentinels"]),
        (RedisSettings(sentinels=("unix:///a",), master_name="a"), ["sentinels"]),
        (RedisSettings(cluster=True, prefix="a:"), ["prefix"]),
        (RedisSettings(cluster=True, prefix="{a}", sentinels=("a",), master_name="a"), ["cluster"]),
        (RedisSettings(addr="unix:///a", cluster=True, prefix="{a}"), ["addr"]),
        (RedisSettings(client_key=Path("key")), ["client_key"]),
        (RedisSettings(pool_size=0), ["pool_size"]),
        (RedisSettings(timeout=0), ["timeout"]),
        (RedisSettings(timeout=61), ["timeout"]),
        (RedisSettings(wait_replicas=-1), ["wait_replicas"]),
        (RedisSettings(prefix="ü"), ["prefix"]),
        (RedisSettings(prefix="a\n"), ["prefix"]),
    ],
)
def test_what_can_not_be_is_told_by_its_name(settings: RedisSettings, names: list[str]) -> None:
    assert [name for name, _ in settings.problems()] == names


# --- names


def test_a_queue_is_one_segment() -> None:
    with pytest.raises(StorageError, match="can't be a queue"):
        Keys("").queue("a/b")
    assert Keys("p:").queue("a") == ["p: due a later", "p: due a waiting", "p: due a ready", "p: due a ranks"]


def test_a_pattern_finds_only_what_begins_with_the_prefix() -> None:
    assert Keys("[a]*?\\:").top_level == "\\[a\\]\\*\\?\\\\:*"


# --- refusals

SAID = {
    "OOM command not allowed when used memory > 'maxmemory'. script: 8f, on @user_script:3.": "OOM",
    "Error running script (call to f_8f): @user_script:3: OOM command not allowed": "OOM",
    "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.": "MISCONF",
    "NOREPLICAS Not enough good replicas to write.": "NOREPLICAS",
    "Protocol error: unauthenticated bulk length": "NOAUTH",
    "UNBLOCKED force unblock from blocking operation": "UNBLOCKED",
    "value is not an integer or out of range": "",
}


@pytest.mark.parametrize(("text", "code"), SAID.items())
def test_the_code_of_a_refusal_is_found_where_it_is_said(text: str, code: str) -> None:
    assert code_of(exceptions.ResponseError(text)) == code


def test_a_server_that_is_not_the_primary_is_known_by_what_it_says() -> None:
    assert is_not_the_primary(exceptions.ReadOnlyError("You can't write", status_code="READONLY"))
    assert is_not_the_primary(exceptions.ResponseError("UNBLOCKED force unblock"))
    assert not is_not_the_primary(exceptions.OutOfMemoryError("command not allowed", status_code="OOM"))


def test_a_message_repeats_nothing_of_a_command() -> None:
    said = "unknown command 'SET', with args beginning with: 'a.example' '-----BEGIN PRIVATE KEY-----' "
    told = message_of("write a.example", "h:1", exceptions.ResponseError(said))
    assert told == "can't write a.example in Redis at h:1: unknown command 'SET'"
    assert message_of("read a", "h:1", exceptions.ResponseError("")) == "can't read a in Redis at h:1: ResponseError"
    assert len(message_of("read a", "h:1", exceptions.ResponseError("x" * 5000))) < 300
