"""Commands whose output can't be written, or is read slowly: no traceback, and no work that is left half done."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.support.certs import make_pair
from tests.support.new_storage import make_storage
from tests.support.pebble import Pebble
from tests.support.server import CertServer, acme_config, changed_program
from tests.support.waiting import wait_until

UNWRITABLE = {
    "full": (">/dev/full", "No space left on device"),
    "closed": (">&-", "Bad file descriptor"),
    "nobody reads": (">&{pipe}", "Broken pipe"),
}
TIMEOUT = 120
NOT_ALL = "ssl-cert-server: not all that was to be printed could be written to standard output\n"


def command(folder: Path, redirection: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command with its output redirected; ``{pipe}`` in it is a pipe without a reader."""
    if not (folder / "secret-dir").exists():
        make_storage(folder / "secret-dir")
    ours, theirs = os.pipe()
    os.close(ours)
    try:
        return subprocess.run(
            [
                "bash",
                "-c",
                f'exec "$@" {redirection.format(pipe=theirs)}',
                "bash",
                sys.executable,
                "-m",
                "ssl_cert_server",
                *arguments,
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
            cwd=folder,
            env={**os.environ, "COLUMNS": "200"},
            pass_fds=[theirs],
        )
    finally:
        os.close(theirs)


@pytest.mark.parametrize(
    ("arguments", "how"),
    [
        (["--version"], "full"),
        (["--help"], "full"),
        (["storage", "new-key"], "closed"),
        (["why", "a.test"], "nobody reads"),
        (["storage", "verify"], "full"),
        *((["local-ca", "root"], how) for how in UNWRITABLE),
    ],
    ids=str,
)
def test_a_command_whose_result_is_its_output_fails_in_one_line(tmp_path: Path, arguments: list[str], how: str) -> None:
    redirection, reason = UNWRITABLE[how]
    done = command(tmp_path, redirection, *arguments)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("timestamp=")]
    assert (done.returncode, lines) == (1, [f"ssl-cert-server: can't write to standard output: {reason}"])


@pytest.mark.parametrize(
    ("arguments", "redirection"),
    [(["check-config", "-c", "missing"], "2>/dev/full"), (["no-command"], "2>&{pipe}")],
    ids=str,
)
def test_where_standard_error_cannot_be_written_either_the_exit_code_is_left(
    tmp_path: Path, arguments: list[str], redirection: str
) -> None:
    done = command(tmp_path, redirection, *arguments)
    assert done.returncode == 2
    assert done.stdout + done.stderr == ""


@pytest.mark.parametrize("redirection", ["2>&-", "2>&{pipe}"])
def test_a_result_needs_no_standard_error(tmp_path: Path, redirection: str) -> None:
    done = command(tmp_path, redirection, "local-ca", "root")
    assert done.returncode == 0
    assert done.stdout.endswith("-----END CERTIFICATE-----\n")


@pytest.mark.parametrize(
    "redirection", [*[redirection for redirection, _ in UNWRITABLE.values()], ">&{pipe} 2>&{pipe}"]
)
def test_what_a_command_does_it_does_whoever_reads(tmp_path: Path, redirection: str) -> None:
    done = command(tmp_path, redirection, "generate-self-signed")
    assert (done.returncode, done.stderr) == (0, "" if "2>" in redirection else NOT_ALL)
    assert (tmp_path / "self_signed.key").exists()
    assert (tmp_path / "self_signed.cert").exists()


@pytest.mark.parametrize("redirection", [">/dev/full", ">&{pipe} 2>&{pipe}"])
def test_a_certificate_is_replaced_and_revoked_and_an_accounts_key_changed_whoever_reads(
    tmp_path: Path, pebble: Pebble, http_port: int, redirection: str
) -> None:
    config = acme_config(pebble.directory_url, pebble.ca_bundle, domains=["a.example.com"])
    with CertServer(tmp_path / "server", config, port=http_port) as server:
        old = fingerprint_of(server)
        at = ["--yes", "-c", str(server.config_file)]
        revoked = command(tmp_path, redirection, "revoke", "a.example.com", *at)
        assert revoked.returncode == 0, revoked.stderr
        assert "Traceback" not in revoked.stderr
        wait_until(lambda: fingerprint_of(server) != old)
        assert pebble.order_count() == 2
        keys = [value for key, value in server.stored().items() if key.endswith(".key")]
        changed = command(tmp_path, redirection, "account", "change-key", *at)
        assert changed.returncode == 0, changed.stderr
        assert keys != [value for key, value in server.stored().items() if key.endswith(".key")]


def fingerprint_of(server: CertServer) -> str:
    fingerprint: str = server.cert("a.example.com").json["fingerprint"]
    return fingerprint


class TestSlowReader:
    """A pipe of 64 KiB that nobody reads until the work is done."""

    NAMES = tuple(f"name-{number:04}.example.com" for number in range(1200))

    @pytest.fixture
    def files(self, tmp_path: Path) -> list[str]:
        """Two storages with values that differ, and one value that only the first has."""
        pair = make_pair(["a.example.com"])
        for place in ("one", "two"):
            (tmp_path / place).mkdir(mode=0o700)
            (tmp_path / f"{place}.yaml").write_text(yaml.safe_dump({"storage": {"dir_cache": str(tmp_path / place)}}))
            for name in self.NAMES:
                (tmp_path / place / name).write_text(place)
        (tmp_path / "one" / "zz.example.com").write_bytes(pair.stored)
        return [str(tmp_path / f"{place}.yaml") for place in ("one", "two")]

    def test_a_copy_is_finished_before_anybody_reads_and_then_every_line_is_there(
        self, tmp_path: Path, files: list[str]
    ) -> None:
        argv = [sys.executable, "-m", "ssl_cert_server", "storage", "copy", "--resume", *files]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as copying:
            try:
                wait_until((tmp_path / "two" / "zz.example.com").exists)
                assert copying.stdout is not None
                time.sleep(1)  # the queue is drained in vain meanwhile
                assert copying.poll() is None
                lines = copying.stdout.read().splitlines()
                assert copying.wait(TIMEOUT) == 1
            finally:
                copying.kill()
        assert len(lines) == len(self.NAMES) + 1
        assert lines[-1].startswith(f"1 copied, 0 there already, 0 replaced, {len(self.NAMES)} different and left")

    def test_a_command_that_changes_nothing_waits_for_its_reader(self, tmp_path: Path, files: list[str]) -> None:
        argv = [sys.executable, "-m", "ssl_cert_server", "storage", "verify", "-c", files[0]]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as checking:
            try:
                with pytest.raises(subprocess.TimeoutExpired):
                    checking.wait(3)
                assert checking.stdout is not None
                lines = checking.stdout.read().splitlines()
                assert checking.wait(TIMEOUT) == 1
            finally:
                checking.kill()
        assert len(lines) > len(self.NAMES)


class TestCrash:
    """A bug that ends the server."""

    CRASH = "import ssl_cert_server.cli.run as command; command.run_server = lambda *_: [][0]"

    def test_its_traceback_is_the_logs_last_line(self, tmp_path: Path) -> None:
        done = self.run(tmp_path, subprocess.PIPE)
        assert done.returncode == 1
        assert " level=error event=process.crashed " in done.stderr
        assert "IndexError: list index out of range" in done.stderr.splitlines()[-1]

    def test_it_ends_though_nobody_reads(self, tmp_path: Path) -> None:
        ours, theirs = os.pipe()
        os.set_blocking(theirs, False)
        filled = 0
        try:
            while True:
                filled += os.write(theirs, bytes(4096))
        except BlockingIOError:
            os.set_blocking(theirs, True)
        try:
            assert self.run(tmp_path, theirs).returncode == 1
        finally:
            os.close(theirs)
            os.close(ours)
        assert filled

    def run(self, folder: Path, stderr: int) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, *changed_program(self.CRASH), "run"]
        return subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=stderr,
            stderr=stderr,
            text=True,
            timeout=TIMEOUT,
            check=False,
            cwd=folder,
        )
