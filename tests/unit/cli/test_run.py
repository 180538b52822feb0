from __future__ import annotations

import socket
from pathlib import Path

import pytest

from ssl_cert_server.cli import run as command
from ssl_cert_server.cli.run import _announce
from ssl_cert_server.config.addresses import ListenAddress, TcpAddress, UnixAddress
from ssl_cert_server.config.schema import Config
from ssl_cert_server.errors import StorageError
from tests.unit.cli.support import Cli


def test_a_broken_configuration_is_exit_code_2_with_every_mistake(cli: Cli) -> None:
    Path("c.yaml").write_text("listen: nowhere\nunknown: 1\nself_signed: {enable: perhaps}\n")
    result = cli("run", "--config", "c.yaml")
    assert (result.code, result.out) == (2, "")
    assert [line.split(": ")[:2] for line in result.err.splitlines()] == [
        ["c.yaml:1", "listen"],
        ["c.yaml:2", "unknown"],
        ["c.yaml:3", "self_signed.enable"],
    ]
    assert not Path("secret-dir").exists()


@pytest.mark.parametrize("option", ["-c", "--config", "-config"])
def test_a_file_that_is_not_there_is_exit_code_2(cli: Cli, option: str) -> None:
    result = cli("run", option, "nowhere.yaml")
    assert result.code == 2
    assert result.err == "nowhere.yaml: can't be read: no such file or directory\n"


def test_a_taken_address_is_one_clear_line_and_exit_code_1(cli: Cli) -> None:
    Path("c.yaml").write_text("listen: 'unix:taken.sock'\n")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind("taken.sock")
        other.listen()
        result = cli("run", "-c", "c.yaml")
    assert (result.code, result.out) == (1, "")
    (line,) = result.err.splitlines()
    assert line.startswith("ssl-cert-server: can't listen on unix:taken.sock: Address already in use")
    assert not Path("ssl-cert-server.pid").exists()


def test_a_storage_error_on_the_way_is_one_clear_line(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(config: Config, announce: object) -> None:
        raise StorageError("the disk is gone")

    monkeypatch.setattr(command, "run_server", fail)
    result = cli("run")
    assert (result.code, result.err) == (1, "ssl-cert-server: the disk is gone\n")


def test_a_bug_is_logged_without_secrets(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(config: Config, announce: object) -> None:
        raise ValueError("-----BEGIN PRIVATE KEY-----\nMHcCAQEE\n-----END PRIVATE KEY-----")

    monkeypatch.setattr(command, "run_server", fail)
    result = cli("run")
    assert result.code == 1
    assert "event=process.crashed" in result.err
    assert "ValueError: [redacted]" in result.err
    assert "MHcCAQEE" not in result.err


@pytest.mark.parametrize(("customary", "listen"), [(None, 8999), ("listen: '127.0.0.1:7000'\n", 7000)])
def test_without_an_option_the_customary_file_or_the_defaults_are_used(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, customary: str | None, listen: int
) -> None:
    if customary:
        Path("conf.yaml").write_text(customary)
    seen: list[Config] = []
    monkeypatch.setattr(command, "run_server", lambda config, announce: seen.append(config))
    assert cli("run").code == 0
    assert seen[0].listen == (TcpAddress("127.0.0.1", listen),)
    assert seen[0].local_ca.enable == (customary is None)


class TestAnnouncement:
    """What a person sees who starts the server."""

    def test_names_the_addresses_and_the_file(self, capsys: pytest.CaptureFixture[str]) -> None:
        addresses: list[ListenAddress] = [TcpAddress("127.0.0.1", 8999), UnixAddress(Path("/run/s.sock"))]
        _announce(Path("conf.yaml"), addresses)
        assert capsys.readouterr().out == (
            "ssl-cert-server listens on 127.0.0.1:8999, unix:/run/s.sock (configuration: conf.yaml)\n"
        )

    @pytest.mark.parametrize(
        ("address", "line"),
        [
            (TcpAddress("127.0.0.1", 8999), "  curl http://127.0.0.1:8999/cert/hello.test\n"),
            (TcpAddress("::1", 80), "  curl http://[::1]:80/cert/hello.test\n"),
            (UnixAddress(Path("s.sock")), "  curl --unix-socket s.sock http://localhost/cert/hello.test\n"),
        ],
    )
    def test_without_a_file_shows_what_to_try(
        self, capsys: pytest.CaptureFixture[str], address: ListenAddress, line: str
    ) -> None:
        _announce(None, [address])
        shown = capsys.readouterr().out
        assert line in shown
        assert "development defaults" in shown
        assert "ssl-cert-server local-ca root" in shown


class TestWithoutTheCommand:
    """``ssl-cert-server -config conf.yaml``, as the oldest predecessor was started."""

    @pytest.mark.parametrize(
        "arguments",
        [
            ["-config", "c.yaml"],
            ["--config", "c.yaml"],
            ["-c", "c.yaml"],
            ["-config=c.yaml"],
            ["--config=c.yaml"],
        ],
    )
    def test_it_runs_the_server(self, cli: Cli, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
        Path("c.yaml").write_text("listen: '127.0.0.1:7000'\n")
        seen: list[Config] = []
        monkeypatch.setattr(command, "run_server", lambda config, announce: seen.append(config))
        assert cli(*arguments).code == 0
        assert seen[0].listen == (TcpAddress("127.0.0.1", 7000),)

    def test_its_mistakes_are_told_the_same_way(self, cli: Cli) -> None:
        result = cli("-config", "nowhere.yaml")
        assert (result.code, result.out) == (2, "")
        assert result.err == "nowhere.yaml: can't be read: no such file or directory\n"

    @pytest.mark.parametrize("option", ["-x", "-conf", "--confi=c.yaml"])
    def test_other_options_are_not_taken_for_it(self, cli: Cli, option: str) -> None:
        result = cli(option, "c.yaml")
        assert result.code == 2
        assert "No such option" in result.err
