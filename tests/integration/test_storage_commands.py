"""The commands on everything that is stored, as an operator gives them, beside a running server and without one."""

from __future__ import annotations

import itertools
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.pebble import Pebble
from tests.support.postgres_server import PostgresServer
from tests.support.redis_server import RedisServer
from tests.support.server import CertServer, acme_config, loaded_dice
from tests.support.verify import verified_leaf

NAME = "site1.example.com"


@pytest.fixture
def config(pebble: Pebble, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("OLD_KEY", "01" * 32)
    monkeypatch.setenv("NEW_KEY", "02" * 32)
    return acme_config(pebble.directory_url, pebble.ca_bundle, domains=[NAME], self_signed={"enable": True})


def configured(server: CertServer, *keys: str, folder: str = "storage") -> Path:
    """Write the server's configuration with these keys, or one for another directory; gives its file."""
    settings = yaml.safe_load(server.config_file.read_text())
    directory = server.config_file.parent / folder
    settings["storage"] = {"dir_cache": str(directory), "seal": {"keys": [{"env": key} for key in keys]}}
    file = server.config_file if directory == server.directory else directory.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(settings))
    return file


def done(process: subprocess.CompletedProcess[str], code: int = 0) -> str:
    assert process.returncode == code, process.stdout + process.stderr
    return process.stdout


def is_sealed(value: bytes) -> bool:
    return value.startswith(b"\x93scs")


def test_sealed_under_a_running_server_a_key_changed_and_unsealed_again(
    tmp_path: Path, config: dict[str, Any], http_port: int, pebble: Pebble
) -> None:
    # Its CA isn't asked for advice meanwhile, which would change what is stored.
    with CertServer(tmp_path / "server", config, port=http_port, program=loaded_dice(0.99)) as server:
        reply = server.cert(NAME)
        leaf = verified_leaf(reply, NAME, pebble.root_certificate())
        server.cert("other.example.com")
        plain = server.stored()
        assert not any(is_sealed(value) for value in plain.values())

        def served_after(*keys: str, command: list[str]) -> dict[str, bytes]:
            configured(server, *keys)
            server.stop()
            server.start()
            done(server.command("storage", *command))
            assert verified_leaf(server.cert(NAME), NAME, pebble.root_certificate()) == leaf
            return server.stored()

        old = served_after("OLD_KEY", command=["reseal"])
        assert all(is_sealed(value) for value in old.values())
        assert {NAME, "self_signed"} <= old.keys()
        new = served_after("NEW_KEY", "OLD_KEY", command=["reseal"])
        assert all(is_sealed(value) and value != old[key] for key, value in new.items())
        alone = served_after("NEW_KEY", command=["reseal"])
        assert alone == new
        server.stop()
        done(server.command("storage", "reseal", "--unseal"))
        unsealed = server.stored()
        assert {key: unsealed[key] for key in plain} == plain
        assert pebble.order_count() == 1


def test_a_server_without_the_key_issues_nothing(
    tmp_path: Path, config: dict[str, Any], http_port: int, pebble: Pebble
) -> None:
    server = CertServer(tmp_path / "server", config, port=http_port)
    configured(server, "OLD_KEY")
    with server:
        assert server.cert(NAME).status == 200
        server.stop()
        for keys in ([], ["NEW_KEY"]):
            configured(server, *keys)
            server.start()
            assert server.cert(NAME).status == 500
            assert f"can't open {NAME}: it is sealed with the key" in server.log
            server.stop()
    assert pebble.order_count() == 1


def test_the_index_is_rebuilt_and_everything_verified(tmp_path: Path, config: dict[str, Any], http_port: int) -> None:
    with CertServer(tmp_path / "server", config, port=http_port) as server:
        assert server.cert(NAME).status == 200
        assert server.cert("other.example.com").status == 200
        assert "1 renewals scheduled" in done(server.command("storage", "rebuild-index"))
        assert "0 findings" in done(server.command("storage", "verify"))
        key = server.directory / "self_signed"
        key.write_bytes(key.read_bytes()[:100])
        found = done(server.command("storage", "verify"), 1).splitlines()
        assert found[0].startswith("self_signed: ")
        assert found[-1].endswith("1 findings")


def test_copied_resumed_and_served_from_the_copy(
    tmp_path: Path, config: dict[str, Any], http_port: int, pebble: Pebble
) -> None:
    server = CertServer(tmp_path / "server", config, port=http_port)
    source = configured(server)
    target = configured(server, "NEW_KEY", folder="copy")
    copy = tmp_path / "server" / "copy"
    with server:
        leaf = verified_leaf(server.cert(NAME), NAME, pebble.root_certificate())
        server.stop()
        done(server.command("storage", "rebuild-index"))

    def copied(*options: str, code: int = 0) -> str:
        command = ["storage", "copy", str(source), str(target), *options]
        return done(run(command, tmp_path), code)

    first = copied()
    assert " 0 there already, 0 replaced, 0 different and left, 0 unreadable; 3 entries scheduled" in first
    values = server.stored()
    assert all(is_sealed((copy / key).read_bytes()) for key in values)
    assert "isn't empty" in run(["storage", "copy", str(source), str(target)], tmp_path).stderr
    (copy / NAME).unlink()
    assert copied("--resume").startswith(f"1 copied, {len(values) - 1} there already")
    (copy / NAME).write_bytes(b"another")
    assert f"{NAME}: another value is there already; --overwrite replaces it" in copied("--resume", code=1)
    assert " 1 replaced" in copied("--overwrite")
    assert server.stored() == values

    server.config_file.write_text(target.read_text())
    with server:
        assert verified_leaf(server.cert(NAME), NAME, pebble.root_certificate()) == leaf
        assert "0 findings" in done(server.command("storage", "verify"))
    assert pebble.order_count() == 1


def test_from_any_kind_of_storage_to_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory's values go through Redis, sealed there, and PostgreSQL, back into a directory."""
    monkeypatch.setenv("NEW_KEY", "02" * 32)
    seal = {"keys": [{"env": "NEW_KEY"}]}
    with CertServer(tmp_path / "server", {"self_signed": {"enable": True}, "local_ca": {"enable": True}}) as server:
        assert [server.cert(name).status for name in ("other.example.com", "a.test")] == [200, 200]
    with RedisServer(tmp_path / "redis", password="a-password") as redis, PostgresServer() as postgres:
        monkeypatch.setenv("REDIS_PASSWORD", "a-password")
        monkeypatch.setenv("POSTGRES_PASSWORD", postgres.password)
        dsn = postgres.dsn(password=None)
        storages: list[dict[str, Any]] = [
            {"type": "directory", "dir_cache": str(server.directory)},
            {"type": "redis", "redis": {"addr": redis.addr, "password_env": "REDIS_PASSWORD"}, "seal": seal},
            {"type": "postgres", "postgres": {"dsn": dsn, "password_env": "POSTGRES_PASSWORD"}},
            {"type": "directory", "dir_cache": str(tmp_path / "copy")},
        ]
        files = [tmp_path / f"{number}.yaml" for number in range(len(storages))]
        for file, storage in zip(files, storages, strict=True):
            file.write_text(yaml.safe_dump({"storage": storage, "self_signed": {"enable": True}}))
        for source, target in itertools.pairwise(files):
            assert done(run(["storage", "copy", str(source), str(target)], tmp_path)).startswith("2 copied, 0 there")
            assert "0 findings" in done(run(["storage", "verify", "-c", str(target)], tmp_path))
        assert is_sealed(redis.ask("GET", "self_signed"))
    assert {key: (tmp_path / "copy" / key).read_bytes() for key in server.stored()} == server.stored()


def run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command that takes no ``-c``."""
    server = CertServer(folder / "unused")
    program = server.process.argv[:-3]
    return subprocess.run([*program, *arguments], capture_output=True, text=True, check=False, timeout=120)
