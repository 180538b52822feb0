"""``ssl-cert-server check-config``."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from ssl_cert_server.cli.check_config import check_config


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.command("check-config")(check_config)
    app.command("other")(lambda: None)  # with one command alone, typer takes no command's name
    return app


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("option", [["-c"], ["--config"], ["-config"]])
def test_a_good_file(app: typer.Typer, option: list[str]) -> None:
    Path("conf.yaml").write_text("listen: ':8999'\n")
    result = CliRunner().invoke(app, ["check-config", *option, "conf.yaml"])
    assert (result.exit_code, result.stdout, result.stderr) == (0, "conf.yaml: OK\n", "")


def test_every_mistake_is_a_line_on_stderr(app: typer.Typer) -> None:
    Path("conf.yaml").write_text("lets_encrypt:\n  renew_befor: 30\n  staging: perhaps\n")
    result = CliRunner().invoke(app, ["check-config", "-c", "conf.yaml"])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "conf.yaml:2: lets_encrypt.renew_befor: unknown key; did you mean renew_before?",
        "conf.yaml:3: lets_encrypt.staging: must be true or false",
    ]


def test_a_missing_file(app: typer.Typer) -> None:
    result = CliRunner().invoke(app, ["check-config", "-c", "conf.yaml"])
    assert result.exit_code == 2
    assert result.stderr == "conf.yaml: can't be read: no such file or directory\n"
