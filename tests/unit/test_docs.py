"""What the pages for users claim, against the code: links, log events, limits, and what of them no test runs."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

from ssl_cert_server.acme import client, retry, transport
from ssl_cert_server.challenges import client_hello, tlsalpn01, tlsalpn01_listener
from ssl_cert_server.challenges.dns01 import changes
from ssl_cert_server.dns import resolver
from ssl_cert_server.http import changes as polls
from ssl_cert_server.http import connection, load, protocol
from ssl_cert_server.issuers import managed
from ssl_cert_server.ocsp import exchange
from ssl_cert_server.renewal import staples as asked_staples
from ssl_cert_server.renewal import worker, write_back
from ssl_cert_server.server import compose, descriptors, run
from ssl_cert_server.service import (
    ask,
    attempts,
    backoff,
    certificates,
    flights,
    issuance,
    mirror_watch,
    news,
    preflight,
    staples,
    ttl,
)
from ssl_cert_server.storage import base, directory_threads, leasing, mirror

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "clients/openresty/README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OPERATIONS = (ROOT / "docs/operations.md").read_text()

# --- links

_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Those that GitHub makes of the headings."""
    headings = _HEADING.findall(_FENCED.sub("", page.read_text()))
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[str]:
    return [link for link in _LINK.findall(_FENCED.sub("", page.read_text())) if "://" not in link]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_between_files_leads_somewhere(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


# --- log events

_EVENT_ROW = re.compile(r"^\| `([a-z0-9_.]+|library\.\*)` \| ([a-z ]+) \|", re.MULTILINE)


def documented_events() -> dict[str, str]:
    section = OPERATIONS.partition("## Log events")[2].partition("\n## ")[0]
    return dict(_EVENT_ROW.findall(section))


def logged_events() -> dict[str, str]:
    """Every event of the source, with its level; those of libraries as the one that stands for them."""
    found = {"library.*": "warning and above"}
    for file in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if not (isinstance(node.func.value, ast.Name) and node.func.value.id == "_log"):
                continue
            words = [part.value for part in node.args if isinstance(part, ast.Constant) and isinstance(part.value, str)]
            assert len(words) == 1, f"{file}:{node.lineno}: an event's name is written out"
            found[words[0]] = node.func.attr.replace("exception", "error")
    return found


def test_every_log_event_is_in_the_table_with_its_level_and_no_other() -> None:
    assert len(logged_events()) > 20
    assert documented_events() == logged_events()


# --- limits and pauses

MIB = 1024 * 1024
LIMITS = {
    "issuances side by side": f"{compose._SIDE_BY_SIDE}",
    "renewals side by side": f"{worker._SIDE_BY_SIDE}",
    "issuances under way and waiting": f"{issuance._WAITING}",
    "names being fetched (storage or CA)": f"{certificates._MAX_FETCHES}",
    "a request's answer": f"{certificates.ANSWER_DEADLINE:.0f} s",
    "an issuance at one CA": f"{attempts.ISSUANCE_DEADLINE:.0f} s, and with dns-01 `propagation_timeout`",
    "a name's wait for its turn to be issued": f"{issuance._WAIT_DEADLINE:.0f} s",
    "one request to the CA": f"{transport.REQUEST_DEADLINE:.0f} s",
    "the CA's directory, or a nonce": f"{client.ENTRY_DEADLINE:.0f} s",
    "one question to `ask`": f"{ask.SIDE_BY_SIDE} side by side",
    "verdicts of `ask` in memory": f"{ask._VERDICTS}",
    "preflight": f"{preflight.CHECK_DEADLINE:.0f} s",
    "one question to DNS": f"{resolver.QUESTION_DEADLINE:.0f} s",
    "one change of a TXT record": f"{changes.TURN_DEADLINE:.0f} s",
    "tls-alpn-01 connections at once": f"{tlsalpn01_listener.CONNECTIONS}",
    "a tls-alpn-01 connection": f"{tlsalpn01_listener.DEADLINE:.0f} s",
    "a ClientHello's size": f"{client_hello.MAX_HELLO // 1024} KiB",
    "a tls-alpn-01 challenge's wait for its name": f"{tlsalpn01.TURN_DEADLINE:.0f} s",
    "a request's size": f"{protocol.MAX_MESSAGE // 1024} KiB",
    "a request's arrival": f"{protocol.MESSAGE_DEADLINE:.0f} s",
    "an answer that isn't read": f"{connection.SEND_DEADLINE:.0f} s",
    "bytes held for clients that send faster than they read": f"{load.MAX_HELD // MIB} MiB",
    "HTTP connections at once": f"{descriptors.AMPLE.connections}",
    "requests that wait": f"{descriptors.AMPLE.waiting}",
    "an idle connection": f"{run._KEEP_ALIVE} s",
    "waiting for a certificate while the server stops": f"{run._PATIENCE} s",
    "stopping": f"{run._DRAIN} s",
    "one storage operation": f"{directory_threads.DEADLINE:.0f} s",
    "a lock of the directory or of its index that another process holds": f"{directory_threads.PATIENCE:.0f} s",
    "a read from a shared storage of what `mirror_dir` has": f"{mirror._PATIENCE * 1000:.0f} ms",
    "looking for certificates that storage lost": f"{write_back._LOOK_EVERY:.0f} s",
    "certificates in memory compared at each look": f"{write_back._CHECKED}",
    "looking whether `mirror_dir` was emptied": f"{mirror_watch.LOOK_EVERY:.0f} s",
    "a file in storage": f"{base.MAX_VALUE // MIB} MiB",
    "looking for changed managed files": f"{managed._WATCH_EVERY:.0f} s",
    "managed files looked at each time": f"{managed._AT_ONCE}",
    "a lease after its holder hangs": f"{leasing.LEASE_SECONDS:.0f} s",
    "an answer's `ttl`": f"{ttl._LONGEST} s",
    "one question to a responder": f"{exchange.DEADLINE:.0f} s",
    "a responder's answer": f"{exchange.MAX_BODY // 1024} KiB",
    "questions to responders side by side": f"{asked_staples._SIDE_BY_SIDE}",
    "staples in memory": f"{staples._KEPT}",
    "clients that wait for changes": f"{news.MAX_WAITING}",
    "a wait for changes": f"{polls.LONGEST_WAIT:.0f} s",
    "changes that are remembered": f"{base.CHANGES_KEPT}",
}
_LIMIT_ROW = re.compile(r"^\| ([^|]+) \| ([^|]+) \| [^|]+ \|$", re.MULTILINE)


def test_the_limits_are_those_of_the_code() -> None:
    section = OPERATIONS.partition("## Limits")[2]
    rows = {name: value for name, value in _LIMIT_ROW.findall(section) if name not in ("limit", "---")}
    assert rows == LIMITS
    assert f"sent again, {retry.ATTEMPTS} times in all" in section
    for seconds in (issuance._OVERLOADED_RETRY, flights._AFTER_RESTART):
        assert f"`Retry-After: {seconds:.0f}`" in section
    assert f"`Retry-After: {managed._WATCH_EVERY:.0f}`" in OPERATIONS.partition("## What happens when")[2]


def test_the_pauses_are_those_of_the_code() -> None:
    section = OPERATIONS.partition("## Back-off")[2]
    pauses = re.findall(r"^\| (\d).* \| (\d+) (minutes?|hours) \|$", section, re.MULTILINE)
    units = {"minute": 60, "minutes": 60, "hours": 3600}
    for failures, count, unit in pauses:
        assert backoff.retry_at(int(failures), 0.0, 0.0, None) == int(count) * units[unit]
    assert len(pauses) == len(backoff._DELAYS)


# --- commands that no test runs

_CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_RUN = {
    ("deployment.md", "apt-get install"): "needs root; installs packages and makes a user",
    ("deployment.md", "cd /opt/ssl-cert-server/src"): "downloads from PyPI; tools/setup runs the same two pip lines",
    ("deployment.md", "install -m 0644"): "needs systemd; the unit is checked in tests/integration/test_docs.py",
    ("deployment.md", "runuser"): "needs root and the user; local-ca root itself is run by test_sources.py",
    ("deployment.md", "usermod"): "needs root, and changes the machine's users",
    ("deployment.md", "systemctl stop"): "needs systemd; restoring is tried in tests/integration/test_docs.py",
    ("dns-providers.md", "/opt/ssl-cert-server"): "downloads from PyPI; a unit test looks at the lock",
    ("operations.md", "systemctl stop ssl-cert-server\n# timedatectl"): "needs systemd, and sets the machine's clock",
    (
        "operations.md",
        "systemctl stop ssl-cert-server\n# ssl-cert-server storage copy",
    ): "needs systemd; tests/integration/test_storage_commands.py copies",
    (
        "operations.md",
        "ssl-cert-server storage copy --resume",
    ): "needs a mirror; tests/integration/test_shared_storage.py fills Redis from one",
    ("operations.md", "ssl-cert-server storage new-key"): "needs systemd; test_storage_commands.py seals",
    ("storage-backends.md", "/opt/ssl-cert-server"): "needs the server there; test_storage_backend.py installs it",
    (
        "migration.md",
        "systemctl stop ssl-cert-server\n# install",
    ): "needs systemd; test_sources.py takes a directory over",
    ("migration.md", "systemctl stop ssl-cert-server\n# rm"): "needs systemd, and the predecessor",
}


def console_blocks() -> list[tuple[str, str]]:
    pages = sorted({page for page, _ in NOT_RUN})
    return [(page, block) for page in pages for block in _CONSOLE.findall((ROOT / "docs" / page).read_text())]


def test_every_command_that_no_test_runs_is_listed_with_the_reason() -> None:
    for page, block in console_blocks():
        reasons = [key for key in NOT_RUN if key[0] == page and block.removeprefix("# ").startswith(key[1])]
        assert len(reasons) == 1, (page, block)
    assert len(console_blocks()) == len(NOT_RUN)


@pytest.mark.parametrize(("page", "block"), console_blocks())
def test_they_are_commands_that_the_shell_can_read(page: str, block: str) -> None:
    commands = [line.removeprefix("# ") for line in block.splitlines() if line.startswith("# ")]
    assert commands
    script = "\n".join(commands).replace("<the predecessor's user>", "user")
    done = subprocess.run(["bash", "-n", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
