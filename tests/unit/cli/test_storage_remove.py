"""``ssl-cert-server storage remove``, on a directory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.certs import make_pair
from tests.unit.cli.support import Cli

NAME = "a.example.com"


@pytest.fixture
def stored(cli: Cli) -> Path:
    """The file of a certificate in the directory ``here``."""
    path = Path("here", NAME)
    path.parent.mkdir(mode=0o700)
    path.write_bytes(make_pair([NAME]).stored)
    Path("conf.yaml").write_text("storage: {dir_cache: here}\n")
    return path


def test_a_certificate_is_removed_and_noted(cli: Cli, stored: Path) -> None:
    result = cli("storage", "remove", NAME, "--yes")
    [fingerprint] = json.loads(Path("here", "_removed", NAME).read_text())
    assert (result.code, result.out) == (0, f"{NAME}: the certificate {fingerprint} is removed\n")
    assert not stored.exists()


def test_nothing_is_removed_without_a_yes(cli: Cli, stored: Path) -> None:
    assert cli("storage", "remove", NAME).code == 1
    assert stored.exists()
    assert not Path("here", "_removed").exists()


@pytest.mark.usefixtures("stored")
def test_a_key_without_a_certificate_is_named(cli: Cli) -> None:
    result = cli("storage", "remove", "b.example.com", "--yes")
    assert result.code == 1
    assert "there is no certificate under b.example.com" in result.err


@pytest.mark.parametrize("key", ["acme_account+key", f"_state/{NAME}", "_local_ca/root"])
def test_only_certificates_are_removed(cli: Cli, stored: Path, key: str) -> None:
    other = Path("here", key)
    other.parent.mkdir(exist_ok=True)
    other.write_bytes(stored.read_bytes())
    result = cli("storage", "remove", key, "--yes")
    assert result.code == 1
    assert f"{key} is not the key of a certificate" in result.err
    assert other.exists()


def test_a_broken_value_is_removed(cli: Cli, stored: Path) -> None:
    stored.write_bytes(b"rubbish")
    result = cli("storage", "remove", NAME, "--yes")
    assert (result.code, result.out) == (0, f"{NAME}: the value, which is no certificate, is removed\n")
    assert not stored.exists()
