from __future__ import annotations

import datetime
import os
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from ssl_cert_server.model import Certificate
from ssl_cert_server.pki.x509 import parse_certificate
from tests.unit.cli.support import Cli

CERT, KEY = Path("self_signed.cert"), Path("self_signed.key")
COMMAND = "generate-self-signed"


def _generated(cert: Path = CERT, key: Path = KEY) -> Certificate:
    return parse_certificate(key.read_bytes() + cert.read_bytes())


def _x509(path: Path = CERT) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _days(certificate: x509.Certificate) -> int:
    return round((certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC)) / datetime.timedelta(days=1))


def _organizations(path: Path = CERT) -> list[str | bytes]:
    return [attribute.value for attribute in _x509(path).subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]


def test_by_default_it_writes_two_files_for_a_year(cli: Cli) -> None:
    result = cli(COMMAND)
    assert result.code == 0
    assert result.out == "wrote the certificate to self_signed.cert and its key to self_signed.key\n"
    assert _generated().names == frozenset()
    assert _days(_x509()) == 365
    assert _organizations() == ["SSL Cert Server Self-Signed"]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_only_the_owner_may_read_the_key(cli: Cli, umask: int) -> None:
    previous = os.umask(umask)
    try:
        cli(COMMAND)
        cli(COMMAND, "--out", "both.pem")
    finally:
        os.umask(previous)
    assert [_mode(path) for path in (KEY, CERT, Path("both.pem"))] == [0o600, 0o644, 0o600]


def test_a_key_that_lay_open_is_replaced_by_one_that_does_not(cli: Cli) -> None:
    KEY.write_text("old")
    KEY.chmod(0o666)
    cli(COMMAND)
    assert _mode(KEY) == 0o600
    assert KEY.read_bytes() == _generated().key_pem


def test_no_other_file_is_left(cli: Cli) -> None:
    cli(COMMAND)
    assert {path.name for path in Path().iterdir()} == {CERT.name, KEY.name}


def test_out_puts_both_in_one_file(cli: Cli) -> None:
    result = cli(COMMAND, "--out", "both.pem")
    assert result.out == "wrote key and certificate to both.pem\n"
    both = Path("both.pem").read_bytes()
    assert both == parse_certificate(both).stored
    assert [path.name for path in Path().iterdir()] == ["both.pem"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--days", "30"],
        ["-days", "30"],
        ["-days=30"],
        ["--days=30"],
        ["--valid-days", "30"],
        ["-valid-days", "30"],
        ["-valid-days=30"],
    ],
)
def test_every_spelling_of_days(cli: Cli, arguments: list[str]) -> None:
    assert cli(COMMAND, *arguments).code == 0
    assert _days(_x509()) == 30


@pytest.mark.parametrize("dashes", ["-", "--"])
@pytest.mark.parametrize("sign", [" ", "="])
def test_every_spelling_of_the_predecessors_other_options(cli: Cli, dashes: str, sign: str) -> None:
    def option(name: str, value: str) -> list[str]:
        return f"{dashes}{name}{sign}{value}".split(" ", 1)

    assert cli(COMMAND, *option("cert-out", "c.pem"), *option("key-out", "k.pem")).code == 0
    assert _generated(Path("c.pem"), Path("k.pem")).names == frozenset()
    assert cli(COMMAND, *option("out", "both.pem"), *option("organization", "Ours")).code == 0
    assert _organizations(Path("both.pem")) == ["Ours"]
    assert cli(COMMAND, *option("name", "a.com")).code == 0
    assert _generated().names == {"a.com"}


def test_names_and_organizations_are_repeatable(cli: Cli) -> None:
    names = ["a.com", "*.B.com", "bücher.de", "127.0.0.1", "::1"]
    arguments = [part for name in names for part in ("--name", name)]
    assert cli(COMMAND, *arguments, "--organization", "One", "--organization", "Two").code == 0
    alternative = _x509().extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert alternative.get_values_for_type(x509.DNSName) == ["a.com", "*.b.com", "xn--bcher-kva.de"]
    assert [str(address) for address in alternative.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    assert _organizations() == ["One", "Two"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--name", "not a name"],
        ["--name", "a_b.com"],
        ["--name", ""],
        ["--name", "*."],
        ["--name", "*"],
        ["--name", "*.*.com"],
        ["--name", "www.*.com"],
        ["--name", "*.127.0.0.1"],
        ["--name", "300.0.0.1"],
        ["--days", "0"],
        ["--days", "-1"],
        ["--days", "36501"],
        ["--days", "many"],
        ["--organization", ""],
        ["--organization", "x" * 65],
    ],
)
def test_a_bad_value_is_told_and_nothing_is_written(cli: Cli, arguments: list[str]) -> None:
    result = cli(COMMAND, *arguments)
    assert result.code == 2
    assert "Invalid value" in result.err
    assert arguments[0] in result.err
    assert "Traceback" not in result.err
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("nowhere/file.pem", "No such file or directory"),
        ("folder", "Is a directory"),
        (".", "Is a directory|Device or resource busy|Invalid argument"),
        ("a-file/file.pem", "Not a directory"),
        ("x" * 300, "File name too long"),
    ],
)
def test_a_path_that_cannot_be_written_is_one_clear_line(cli: Cli, path: str, reason: str) -> None:
    Path("folder").mkdir()
    Path("a-file").touch()
    result = cli(COMMAND, "--out", path)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(f"ssl-cert-server: can't write {path}: ")
    assert any(
        result.err.endswith(f": {each}; create its directory, or name another file\n") for each in reason.split("|")
    )
    assert result.err.count("\n") == 1
    assert {each.name for each in Path().iterdir()} == {"folder", "a-file"}
