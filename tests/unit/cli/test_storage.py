"""``ssl-cert-server storage``, as far as it needs no storage but a directory of values."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssl_cert_server.config.secrets import seal_key_bytes
from ssl_cert_server.storage.seal import is_sealed
from tests.support.certs import make_pair
from tests.unit.cli.support import Cli

SEALED = "storage: {dir_cache: here, seal: {keys: [{file: new.key}, {file: old.key}]}}\n"


@pytest.fixture
def stored(cli: Cli) -> dict[str, bytes]:
    """Values in the directory ``here``, and two keys."""
    for name in ("new.key", "old.key"):
        Path(name).write_text(cli("storage", "new-key").out)
    values = {"a.example.com": make_pair(["a.example.com"]).stored, "_state/a.example.com": b"{}"}
    for key, value in values.items():
        path = Path("here", key)
        path.parent.mkdir(mode=0o700, exist_ok=True, parents=True)
        path.write_bytes(value)
    Path("here").chmod(0o700)
    Path("conf.yaml").write_text(SEALED)
    return values


def files(stored: dict[str, bytes]) -> dict[str, bytes]:
    return {key: Path("here", key).read_bytes() for key in stored}


def test_a_new_key_is_another_each_time_and_can_be_used(cli: Cli) -> None:
    first, second = cli("storage", "new-key"), cli("storage", "new-key")
    assert first.code == 0
    assert first.out != second.out
    assert len(seal_key_bytes(first.out)) == 32


def test_reseal_seals_what_is_there_and_unseals_it(cli: Cli, stored: dict[str, bytes]) -> None:
    result = cli("storage", "reseal")
    assert (result.code, result.out, result.err) == (
        0,
        "2 sealed, 0 were so already, 0 in use, 0 unreadable\n",
        "",
    )
    assert all(is_sealed(value) for value in files(stored).values())
    assert cli("storage", "reseal").out == "0 sealed, 2 were so already, 0 in use, 0 unreadable\n"
    assert cli("storage", "reseal", "--unseal").out == "2 unsealed, 0 were so already, 0 in use, 0 unreadable\n"
    assert files(stored) == stored


def test_a_key_that_is_missing_is_named_and_nothing_lost(cli: Cli, stored: dict[str, bytes]) -> None:
    cli("storage", "reseal")
    sealed = files(stored)
    Path("conf.yaml").write_text(SEALED.replace("{file: new.key}, ", ""))
    result = cli("storage", "reseal")
    assert result.code == 1
    assert result.out.count("can't open") == 2
    assert "0 sealed, 0 were so already, 0 in use, 2 unreadable" in result.out
    assert files(stored) == sealed


@pytest.mark.usefixtures("stored")
def test_without_keys_there_is_nothing_to_seal_with(cli: Cli) -> None:
    Path("conf.yaml").write_text("storage: {dir_cache: here}\n")
    result = cli("storage", "reseal")
    assert result.code == 1
    assert result.err.startswith("ssl-cert-server: there are no storage.seal.keys")


@pytest.mark.parametrize("command", ["verify", "reseal", "rebuild-index"])
def test_a_broken_configuration_is_exit_code_2(cli: Cli, command: str) -> None:
    Path("conf.yaml").write_text("unknown: 1\n")
    assert cli("storage", command).code == 2


@pytest.mark.parametrize("arguments", [[], ["one.yaml"], ["one.yaml", "two.yaml", "three.yaml"]])
def test_copy_needs_two_files(cli: Cli, arguments: list[str]) -> None:
    assert cli("storage", "copy", *arguments).code == 2
