from __future__ import annotations

import pytest

from ssl_cert_server import __version__
from tests.unit.cli.support import Cli


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_names_every_command(cli: Cli, option: str) -> None:
    result = cli(option)
    assert result.code == 0
    assert "One server that holds all TLS certificates of a fleet." in result.out
    for command in ("run", "check-config", "generate-self-signed", "local-ca"):
        assert command in result.out


def test_without_a_command_the_help_is_shown(cli: Cli) -> None:
    result = cli()
    assert "Usage: " in result.out + result.err
    assert "generate-self-signed" in result.out + result.err


@pytest.mark.parametrize("option", ["--version", "-version"])
def test_version(cli: Cli, option: str) -> None:
    result = cli(option)
    assert (result.code, result.out, result.err) == (0, f"ssl-cert-server {__version__}\n", "")


@pytest.mark.parametrize(
    ("command", "texts"),
    [
        (["run"], ["Run the server until SIGTERM or Ctrl-C.", "--config", "-c", "conf.yaml"]),
        (["check-config"], ["print every mistake", "--config"]),
        (
            ["generate-self-signed"],
            ["--days", "--cert-out", "--key-out", "--out", "--organization", "--name", "default: 365", "0600"],
        ),
        (["local-ca"], ["no public CA issues for", "root"]),
        (["local-ca", "root"], ["Print the root certificate in PEM", "--config"]),
        (["storage"], ["copy", "verify", "reseal", "rebuild-index", "new-key"]),
        (["storage", "copy"], ["FROM", "TO", "--overwrite", "--resume", "leases are not copied"]),
        (["storage", "verify"], ["the exit code is 1 then", "--config"]),
        (["storage", "reseal"], ["--unseal", "--config"]),
        (["storage", "rebuild-index"], ["Schedule the renewal of every stored certificate", "--config"]),
    ],
)
def test_each_command_explains_itself(cli: Cli, command: list[str], texts: list[str]) -> None:
    result = cli(*command, "--help")
    assert result.code == 0
    for text in texts:
        assert text in result.out


@pytest.mark.parametrize("arguments", [["renew"], ["--colour"], ["run", "--port", "80"], ["local-ca", "leaf"]])
def test_wrong_usage_is_exit_code_2_without_a_traceback(cli: Cli, arguments: list[str]) -> None:
    result = cli(*arguments)
    assert result.code == 2
    assert arguments[-1 if arguments[0] == "local-ca" else 0].lstrip("-") in result.err
    assert "Traceback" not in result.err
