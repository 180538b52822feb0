"""Ways in: addresses, databases, passwords, ACL rules, TLS; and closed doors, without a password in what they say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from ssl_cert_server.errors import StorageError
from ssl_cert_server.storage.redis import RedisSettings
from tests.support.certs import Pair, make_pair
from tests.support.leaks import told_by
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer

SECRET = "hunter2/ü@:x"
ESCAPED = "hunter2%2F%C3%BC%40%3Ax"
WRONG = "wr" + "0ng"
VALUE = b"PRI" + b"VATE"
PAST, FOREVER = 1_600_000_000.0, 4_000_000_000.0


async def refused(storage: Any) -> str:
    """What a call says that can't be; everything that its exception tells is looked through."""
    with pytest.raises(StorageError) as failure:
        await storage.put("a.example", VALUE)
    told = told_by(failure.value)
    for secret in (SECRET, ESCAPED, WRONG, VALUE.decode()):
        assert secret not in told
    return str(failure.value)


async def works(storage: Any) -> None:
    await storage.put("key", b"value")
    assert await storage.get("key") == b"value"
    await storage.delete("key")


# --- addresses


@pytest.mark.parametrize(
    "form", ["127.0.0.1:{port}", "localhost:{port}", "redis://127.0.0.1:{port}", "unix://{socket}"]
)
async def test_every_form_of_an_address(redis_server: RedisServer, opened: Any, form: str) -> None:
    await works(opened(RedisSettings(addr=form.format(port=redis_server.port, socket=redis_server.socket))))


@pytest.mark.parametrize("form", ["redis://127.0.0.1:{port}/3", "unix://{socket}?db=3", "127.0.0.1:{port}/3"])
async def test_a_database_of_another_number(redis_server: RedisServer, opened: Any, form: str) -> None:
    redis_server.ask("FLUSHALL")
    storage = opened(RedisSettings(addr=form.format(port=redis_server.port, socket=redis_server.socket)))
    await storage.put("key", b"value")
    assert redis_server.ask("EXISTS", "key") == 0
    assert await storage.get("key") == b"value"


async def test_a_database_that_there_is_not(redis_server: RedisServer, opened: Any) -> None:
    assert "DB index is out of range" in await refused(opened(RedisSettings(addr=f"{redis_server.addr}/99")))


async def test_nothing_is_connected_before_the_first_call_and_nobody_there_is_told(opened: Any) -> None:
    addr = f"127.0.0.1:{free_port()}"
    storage = opened(RedisSettings(addr=addr))
    assert await refused(storage) == (
        f"can't write a.example in Redis at {addr}: Error 111 connecting to {addr}. Connect call failed "
        f"('127.0.0.1', {addr.rpartition(':')[2]})."
    )


async def test_a_socket_that_is_not_there(tmp_path: Path, opened: Any) -> None:
    assert str(tmp_path) in await refused(opened(RedisSettings(addr=f"unix://{tmp_path}/redis.sock")))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (RedisSettings(addr="http://h"), "addr must be host:port"),
        (RedisSettings(cluster=True), "prefix a Cluster needs one with a hash tag"),
        (RedisSettings(sentinels=("a:1",)), "master_name sentinels and master_name"),
    ],
)
def test_settings_that_make_no_sense_are_refused_at_once(opened: Any, settings: RedisSettings, problem: str) -> None:
    with pytest.raises(StorageError, match=problem):
        opened(settings)


# --- passwords


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("locked"), password=SECRET) as server:
        yield server


async def test_the_password(locked: RedisServer, opened: Any) -> None:
    await works(opened(RedisSettings(addr=locked.addr, password=SECRET)))
    await works(opened(RedisSettings(addr=f"redis://:{ESCAPED}@{locked.addr}")))
    await works(opened(RedisSettings(addr=f"unix://default:{ESCAPED}@{locked.socket}")))
    await works(opened(RedisSettings(addr=f"redis://:{WRONG}@{locked.addr}", password=SECRET)))


async def test_a_wrong_password_or_none(locked: RedisServer, opened: Any) -> None:
    wrong = opened(RedisSettings(addr=locked.addr, password=WRONG))
    assert "it refuses the user name or the password" in await refused(wrong)
    none = opened(RedisSettings(addr=locked.addr))
    assert "it wants a password, and none is configured" in await refused(none)


async def test_a_password_where_none_is_wanted(redis_server: RedisServer, opened: Any) -> None:
    await refused(opened(RedisSettings(addr=redis_server.addr, username="x", password=SECRET)))


async def test_no_settings_or_storage_shows_the_password(locked: RedisServer, opened: Any) -> None:
    settings = RedisSettings(addr=f"redis://u:{ESCAPED}@{locked.addr}", password=SECRET, sentinel_password=SECRET)
    shown = [repr(settings), str(settings.addresses()), repr(opened(settings))]
    assert not any(secret in text for text in shown for secret in (SECRET, ESCAPED))


RULES = "~ssl:* resetchannels +@read +@write +@scripting +@connection -@dangerous -@admin +time +wait +info +role"
"""As docs/redis.md gives them."""


async def test_the_rules_of_the_page_are_enough(locked: RedisServer, opened: Any) -> None:
    page = Path(__file__).parents[4] / "docs/redis.md"
    assert RULES in page.read_text()
    locked.ask("ACL", "SETUSER", "certs", "reset", "on", f">{SECRET}", *RULES.split())
    storage = opened(RedisSettings(addr=locked.addr, username="certs", password=SECRET, prefix="ssl:", wait_replicas=0))
    await works(storage)
    lease = await storage.acquire("work", 30)
    await storage.renew(lease, 30)
    await storage.put("_folder/key", b"", lease=lease)
    assert [key async for key in storage.list("_folder")] == ["_folder/key"]
    assert [key async for key in storage.list()] == []
    assert await storage.claim("work", now=1.0, limit=1, seconds=1) == []
    await storage.announce(["key"])
    cursor = (await storage.changes("", 0)).cursor
    assert (await storage.changes(cursor, 0.01)).keys == ()
    await storage.index_complete()
    await storage.check_writable()
    await storage.release(lease)


async def test_a_user_that_may_not_is_told(locked: RedisServer, opened: Any) -> None:
    locked.ask("ACL", "SETUSER", "reader", "reset", "on", f">{SECRET}", "+get", "~*")
    storage = opened(RedisSettings(addr=locked.addr, username="reader", password=SECRET))
    assert "the user may not do that" in await refused(storage)


# --- commands that aren't there


async def test_a_command_that_the_operator_took_away_repeats_no_private_key(tmp_path: Path, opened: Any) -> None:
    with RedisServer(tmp_path / "redis", {"rename-command": 'EVAL ""'}) as server:
        assert "unknown command 'EVAL'" in await refused(opened(RedisSettings(addr=server.addr)))


# --- TLS


class Authority:
    """A CA and what it signed, as files."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        basic = x509.BasicConstraints(ca=True, path_length=None)
        self._ca = make_pair(start=PAST, end=FOREVER, extensions=[basic], subject=f"authority {folder.name}")
        self.bundle = folder / "ca.pem"
        self.bundle.write_bytes(self._ca.pem)

    def sign(self, name: str) -> tuple[Path, Path]:
        """A certificate for 127.0.0.1 or a name, and its key."""
        pair: Pair = make_pair([name], start=PAST, end=FOREVER, signer=self._ca)
        paths = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        for path, content in zip(paths, (pair.pem, pair.key_pem), strict=True):
            path.write_bytes(content)
        return paths


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ca")


@pytest.fixture(scope="module")
def tls_port(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    certificate, key = authority.sign("localhost")
    port = free_port()
    options = {
        "tls-port": str(port),
        "tls-cert-file": str(certificate),
        "tls-key-file": str(key),
        "tls-ca-cert-file": str(authority.bundle),
        "tls-auth-clients": "optional",
    }
    with RedisServer(tmp_path_factory.mktemp("redis-tls"), options):
        yield port


async def test_tls_with_ones_own_authority(tls_port: int, authority: Authority, opened: Any) -> None:
    await works(opened(RedisSettings(addr=f"rediss://localhost:{tls_port}", ca_bundle=authority.bundle)))


async def test_tls_with_a_certificate_of_ones_own(tls_port: int, authority: Authority, opened: Any) -> None:
    certificate, key = authority.sign("client")
    await works(
        opened(
            RedisSettings(
                addr=f"rediss://localhost:{tls_port}",
                ca_bundle=authority.bundle,
                client_cert=certificate,
                client_key=key,
            )
        )
    )


async def test_another_authoritys_server_is_refused(tls_port: int, tmp_path: Path, opened: Any) -> None:
    other = Authority(tmp_path / "other")
    told = await refused(opened(RedisSettings(addr=f"rediss://localhost:{tls_port}", ca_bundle=other.bundle)))
    assert "certificate verify failed" in told
    unconfigured = await refused(opened(RedisSettings(addr=f"rediss://localhost:{tls_port}")))
    assert "certificate verify failed" in unconfigured


async def test_a_server_of_another_name_is_refused(tls_port: int, authority: Authority, opened: Any) -> None:
    told = await refused(opened(RedisSettings(addr=f"rediss://127.0.0.1:{tls_port}", ca_bundle=authority.bundle)))
    assert "certificate verify failed" in told
    assert "127.0.0.1" in told


async def test_files_for_tls_that_are_not_there_or_no_pem(tls_port: int, tmp_path: Path, opened: Any) -> None:
    bundle = tmp_path / "ca.pem"
    storage = opened(RedisSettings(addr=f"rediss://localhost:{tls_port}", ca_bundle=bundle))
    assert f"can't use {bundle} for TLS to Redis: No such file" in await refused(storage)
    bundle.write_text("no PEM")
    assert f"can't use {bundle} for TLS to Redis" in await refused(storage)


async def test_a_bundle_that_was_put_right_is_used_without_a_restart(
    tls_port: int, authority: Authority, tmp_path: Path, opened: Any
) -> None:
    bundle = tmp_path / "ca.pem"
    storage = opened(RedisSettings(addr=f"rediss://localhost:{tls_port}", ca_bundle=bundle))
    await refused(storage)
    bundle.write_bytes(authority.bundle.read_bytes())
    await works(storage)


async def test_tls_to_a_port_without_it(redis_server: RedisServer, opened: Any) -> None:
    await refused(opened(RedisSettings(addr=f"rediss://{redis_server.addr}", timeout=1)))
