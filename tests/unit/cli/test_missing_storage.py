"""Commands that need an existing storage fail where there is none, and create nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.certs import make_pair
from tests.unit.cli.support import Cli

CA = "https://ca.example.com/dir"
COMMANDS = [
    ["why", "a.example.com"],
    ["local-ca", "root"],
    ["storage", "verify"],
    ["storage", "rebuild-index"],
    ["storage", "reseal"],
    ["storage", "remove", "a.example.com", "--yes"],
    ["account", "show"],
    ["account", "change-key", "--yes"],
    ["account", "deactivate", "--yes"],
    ["revoke", "a.example.com", "--yes"],
]


@pytest.fixture(autouse=True)
def _configuration(cli: Cli) -> None:
    Path("key").write_text(cli("storage", "new-key").out)
    Path("conf.yaml").write_text(
        f"acme: [{{directory_url: '{CA}'}}]\ndomains: [a.example.com]\n"
        "storage: {dir_cache: folder/mistyped, seal: {keys: [{file: key}]}}\n"
    )


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_missing_directory_is_an_error_and_is_not_created(cli: Cli, arguments: list[str]) -> None:
    result = cli(*arguments)
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        "ssl-cert-server: there is no storage in folder/mistyped; check storage.dir_cache, or start the server once, "
        "which creates it\n"
    )
    assert not Path("folder").exists()


@pytest.mark.parametrize("left", [None, "lost+found"])
def test_an_empty_directory_as_under_an_unmounted_file_system_holds_no_storage(cli: Cli, left: str | None) -> None:
    Path("folder/mistyped").mkdir(parents=True)
    if left:
        Path("folder/mistyped", left).mkdir()
    result = cli("storage", "verify")
    assert result.code == 1
    assert "there is no storage in folder/mistyped" in result.err
    assert [path.name for path in Path("folder/mistyped").iterdir()] == ([left] if left else [])


def test_a_directory_to_be_taken_over_which_holds_certificates_only_is_one(cli: Cli) -> None:
    path = Path("folder/mistyped/managed")
    path.parent.mkdir(parents=True)
    path.write_bytes(make_pair(["a.example.com"]).stored)
    assert "there is no storage" not in cli("storage", "verify").err


def test_copy_creates_its_target_but_not_its_source(cli: Cli) -> None:
    Path("to.yaml").write_text("storage: {dir_cache: target/below}\n")
    result = cli("storage", "copy", "conf.yaml", "to.yaml")
    assert result.code == 1
    assert "there is no storage in folder/mistyped" in result.err
    assert not Path("folder").exists()
    path = Path("folder/mistyped/managed")
    path.parent.mkdir(parents=True)
    path.write_bytes(make_pair(["a.example.com"]).stored)
    assert cli("storage", "copy", "conf.yaml", "to.yaml").code == 0
    assert Path("target/below/managed").exists()
