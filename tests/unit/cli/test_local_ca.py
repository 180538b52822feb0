from __future__ import annotations

from pathlib import Path

from cryptography import x509

from tests.support.new_storage import make_storage
from tests.unit.cli.support import Cli


def test_root_is_printed_and_the_same_each_time(cli: Cli) -> None:
    make_storage(Path("secret-dir"))
    first, second = cli("local-ca", "root"), cli("local-ca", "root")
    assert (first.code, second.code) == (0, 0)
    assert first.out == second.out
    root = x509.load_pem_x509_certificate(first.out.encode())
    assert root.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert root.subject.rfc4514_string().startswith("CN=ssl-cert-server local CA ")


def test_the_key_stays_where_it_is(cli: Cli) -> None:
    make_storage(Path("secret-dir"))
    result = cli("local-ca", "root")
    assert "PRIVATE KEY" not in result.out + result.err
    kept = Path("secret-dir/_local_ca/root")
    assert b"PRIVATE KEY" in kept.read_bytes()
    assert kept.stat().st_mode & 0o077 == 0


def test_the_configurations_storage_is_used(cli: Cli) -> None:
    Path("c.yaml").write_text("storage: {dir_cache: elsewhere}\n")
    make_storage(Path("elsewhere"))
    outputs = [cli("local-ca", "root", option, "c.yaml").out for option in ("-c", "--config", "-config")]
    assert len(set(outputs)) == 1
    assert Path("elsewhere/_local_ca/root").exists()
    assert not Path("secret-dir").exists()


def test_the_customary_file_is_used_where_there_is_one(cli: Cli) -> None:
    Path("conf.yaml").write_text("storage: {dir_cache: customary}\n")
    make_storage(Path("customary"))
    assert cli("local-ca", "root").code == 0
    assert Path("customary/_local_ca/root").exists()


def test_a_broken_configuration_is_exit_code_2(cli: Cli) -> None:
    Path("conf.yaml").write_text("unknown: 1\n")
    result = cli("local-ca", "root")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("conf.yaml:1: unknown: ")


def test_storage_that_cannot_be_opened_is_one_clear_line(cli: Cli) -> None:
    Path("secret-dir").write_text("a file, not a folder")
    result = cli("local-ca", "root")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("ssl-cert-server: ")
    assert "secret-dir" in result.err
    assert result.err.count("\n") == 1
