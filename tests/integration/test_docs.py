"""Every command that the pages give is run: each ```sh block, in the order of its page, as somebody would type it.

Three things are put in another place, and nothing else: absolute paths go under a folder of the test, port 8999 is that
of a server the test started, and ``make`` is run elsewhere (``MAKE`` says where). ``ssl-cert-server run`` is stopped
once it listens. curl fails on an HTTP error. Blocks fenced as ``console`` aren't run; tests/unit/test_docs.py lists
them with the reasons.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.pebble import Pebble
from tests.support.ports import free_port
from tests.support.server import CertServer, acme_config
from tests.support.verify import verified_leaf

ROOT = Path(__file__).parents[2]
DOCS = sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))
PAGES = ["README.md", "clients/openresty/README.md", *DOCS]
PLACES = ["etc/ssl-cert-server", "var/lib", "usr/local/openresty/site/lualib/resty", "usr/share/lua/5.1/resty"]
UNIT = ROOT / "deploy" / "systemd" / "ssl-cert-server.service"

MAKE = {
    "": "lists the targets",
    "run": "tools/setup, which `make test` uses, and then `ssl-cert-server run`, which the tests here start",
    "demo": "shows tests/support/fleet.py, which test_fleet.py drives",
    "test": "is how these tests are run",
    "lint": "part of `make test`",
    "types": "part of `make test`",
    "unit": "part of `make test`",
    "integration": "part of `make test`",
}
PRELUDE = rf"""
set -euo pipefail
make() {{
    case "${{1-}}" in
        {"|".join(target or "''" for target in MAKE)}) ;;
        *) echo "make $*: not a target that is known to run elsewhere" >&2; return 1 ;;
    esac
}}
ssl-cert-server() {{
    if [ "$1" != run ]; then command ssl-cert-server "$@"; return; fi
    command ssl-cert-server "$@" >run.out 2>run.err &
    local server=$!
    until grep -q 'listens on' run.out; do
        if ! kill -0 $server 2>/dev/null; then cat run.err >&2; return 1; fi
        sleep 0.1
    done
    kill $server
    wait $server
}}
"""
# A block, and what stands before it: the configuration that `-c conf.yaml` means is the last one that the page showed.
_BLOCK = re.compile(r"^```(sh|yaml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ABSOLUTE = re.compile(r"(?<![\w.~/-])/(?=(?:etc|opt|run|var|usr/local/openresty|usr/share/lua)/)")


class Machine:
    """Folders that stand for a machine's, and a running server: site1 has a certificate, site2 failed lately."""

    def __init__(self, folder: Path, pebble: Pebble, port: int) -> None:
        self.root = folder / "root"
        self.work = folder / "work"
        self.pebble = pebble
        self.storage = self.root / "var/lib/ssl-cert-server"
        for place in PLACES:
            (self.root / place).mkdir(parents=True)
        config = acme_config(
            pebble.directory_url,
            pebble.ca_bundle,
            domains=["site1.example.com", "site2.example.com"],
            local_ca={"enable": True},
            storage={"dir_cache": str(self.storage)},
        )
        self.server = CertServer(folder / "server", config, port=port)
        self.server.directory = self.storage
        shutil.copy(self.server.config_file, self.root / "etc/ssl-cert-server/conf.yaml")

    def run(self, page: str) -> str:
        """Run the blocks of a page; gives what they printed."""
        start = ROOT / page if page.startswith("clients/") else ROOT / "README.md"
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        for entry in start.parent.iterdir():
            if not entry.name.startswith("."):
                (self.work / entry.name).symlink_to(entry)
        (self.work / ".curlrc").write_text("fail\nsilent\nshow-error\nmax-time = 110\n")
        shutil.copy(self.pebble.ca_bundle, self.work / "pebble.pem")
        self._configure(self.server.config_file.read_text())
        printed = ""
        for language, block in _BLOCK.findall((ROOT / page).read_text()):
            if language == "yaml":
                self._configure(self._placed(block))
            else:
                printed += self._bash(block)
        return printed

    def _configure(self, text: str) -> None:
        """Write conf.yaml, for a second server beside the one that runs."""
        other = re.sub(rf"127\.0\.0\.1:(8999|{self.server.port})\b", f"127.0.0.1:{free_port()}", text)
        if "listen:" not in other:
            other += f"\nlisten: 127.0.0.1:{free_port()}\n"
        (self.work / "conf.yaml").write_text(re.sub(r"(?m)^pid_file:.*$", "pid_file: second.pid", other))

    def _placed(self, text: str) -> str:
        return _ABSOLUTE.sub(f"{self.root}/", text)

    def _bash(self, block: str) -> str:
        script = self._placed(block).replace("127.0.0.1:8999", f"127.0.0.1:{self.server.port}")
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", PRELUDE + script],
            cwd=self.work,
            env={**os.environ, "PATH": path, "CURL_HOME": str(self.work)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture
def machine(tmp_path: Path, pebble: Pebble, http_port: int) -> Iterator[Machine]:
    with ExitStack() as stack:
        machine = Machine(tmp_path, pebble, http_port)
        stack.enter_context(machine.server)
        assert machine.server.cert("site1.example.com").status == 200
        pebble.add_servfail("site2.example.com")
        assert machine.server.cert("site2.example.com").status == 500
        pebble.clear_servfail("site2.example.com")
        yield machine


@pytest.mark.parametrize("page", [page for page in PAGES if "```sh\n" in (ROOT / page).read_text()])
def test_every_command_works_as_it_is_written(machine: Machine, page: str) -> None:
    machine.run(page)


def test_a_name_that_failed_is_tried_at_once_when_its_state_is_removed(machine: Machine) -> None:
    assert machine.server.cert("site2.example.com").status == 500
    assert '"failures": 1' in machine.run("docs/operations.md")
    verified_leaf(machine.server.cert("site2.example.com"), "site2.example.com", machine.pebble.root_certificate())


def test_a_backup_holds_what_counts_and_can_be_restored(machine: Machine) -> None:
    listed = machine.run("docs/deployment.md").split()
    assert {"./site1.example.com", "./_state/site2.example.com"} <= set(listed)
    assert not [name for name in listed if name.startswith(("./_leases", "./."))]
    before = machine.server.cert("site1.example.com").json["fingerprint"]
    orders = machine.pebble.order_count()
    machine.server.stop()
    shutil.rmtree(machine.storage)
    machine.storage.mkdir(mode=0o700)
    archive = machine.root / "var/backups/ssl-cert-server/storage.tar.gz"
    subprocess.run(["tar", "-xzf", archive, "-C", machine.storage], check=True)
    machine.server.start()
    assert machine.server.cert("site1.example.com").json["fingerprint"] == before
    assert machine.pebble.order_count() == orders
    assert machine.server.cert("site2.example.com").status == 500  # the back-off was kept, too
    assert machine.pebble.account_count() == 1


def test_the_commands_of_a_page_for_operators_replace_a_certificate_that_is_served(machine: Machine) -> None:
    before = machine.server.cert("site1.example.com").json["fingerprint"]
    printed = machine.run("docs/operations.md")
    assert "rule: domains lists it" in printed
    assert f"{before} is revoked" in printed
    deadline = time.monotonic() + 120
    while machine.server.cert("site1.example.com").json["fingerprint"] == before:
        assert time.monotonic() < deadline, "the running server never took the replacement over"
        time.sleep(0.5)


def test_the_plugin_is_copied_whole(machine: Machine) -> None:
    machine.run("clients/openresty/README.md")
    source = ROOT / "clients/openresty/lib"
    files = {path.relative_to(source) for path in source.rglob("*.lua")}
    for place in ("usr/local/openresty/site/lualib", "usr/share/lua/5.1"):
        target = machine.root / place
        assert {path.relative_to(target) for path in target.rglob("*.lua")} == files


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_in_order(tmp_path: Path, number: signal.Signals) -> None:
    with CertServer(tmp_path / "server") as server:
        server.process.signal(number)  # as early as anybody can tell that it runs
        end = time.monotonic() + 60
        while server.process.running and time.monotonic() < end:
            time.sleep(0.05)
        assert server.process.returncode == 0
        assert "event=server.stopped" in server.log
        assert not (tmp_path / "server" / "server.pid").exists()


def test_sighup_ends_nothing(tmp_path: Path) -> None:
    with CertServer(tmp_path / "server") as server:
        server.process.signal(signal.SIGHUP)
        end = time.monotonic() + 60
        while "event=server.no_reload" not in server.log and time.monotonic() < end:
            time.sleep(0.05)
        assert server.get("/healthz").status == 200
        assert "event=server.no_reload" in server.log


def test_exit_codes_are_those_of_the_table(tmp_path: Path) -> None:
    def code(*arguments: str | Path) -> int:
        command: list[str | Path] = [sys.executable, "-m", "ssl_cert_server", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, check=False, timeout=120).returncode

    with CertServer(tmp_path / "server") as server:
        assert code("run", "-c", server.config_file) == 1  # the port is taken
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("lisen: 1\n")
    assert code("run", "-c", wrong) == 2
    assert code("run", "-config", "absent.yaml") == 2
    assert code("-config", wrong) == 2  # as the predecessor's older versions were called


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd to read the unit")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    program = Path(sys.executable).parent / "ssl-cert-server"
    unit = tmp_path / UNIT.name
    text = UNIT.read_text()
    assert "ExecStart=/opt/ssl-cert-server/venv/bin/ssl-cert-server run " in text
    unit.write_text(text.replace("/opt/ssl-cert-server/venv/bin/ssl-cert-server", str(program)))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
