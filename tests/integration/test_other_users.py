"""Commands of root on the directory of a server that runs as another user."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.disks import NOBODY
from tests.support.pebble import Pebble
from tests.support.server import CertServer, acme_config
from tests.support.users import as_nobody
from tests.support.verify import verified_leaf
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else; CI is")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder of another user's, which pytest's own, being root's alone, can't hold."""
    place = Path(tempfile.mkdtemp(prefix="users-"))
    os.chown(place, NOBODY, NOBODY)
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


@pytest.fixture
def server(place: Path, pebble: Pebble, http_port: int) -> CertServer:
    """Not started yet."""
    bundle = place / "ca.pem"
    shutil.copy(pebble.ca_bundle, bundle)
    bundle.chmod(0o644)
    (place / "storage").mkdir(mode=0o700)
    os.chown(place / "storage", NOBODY, NOBODY)
    config = acme_config(pebble.directory_url, bundle, re_patterns=[r".+\.example\.com"])
    server = CertServer(place, config, port=http_port, directory=place / "storage", within=as_nobody())
    server.config_file.chmod(0o644)
    return server


def of_root(server: CertServer) -> list[str]:
    """What in the directory belongs to anybody but its owner."""
    paths = [server.directory, *server.directory.rglob("*")]
    return [str(path) for path in paths if path.lstat().st_uid != NOBODY]


def test_after_root_revoked_a_certificate_the_server_goes_on_issuing(server: CertServer, pebble: Pebble) -> None:
    with server:
        old = server.cert("a.example.com")
        verified_leaf(old, "a.example.com", pebble.root_certificate())
        done = server.command("revoke", "a.example.com", "--yes")
        assert done.returncode == 0, done.stdout + done.stderr
        assert of_root(server) == []
        assert server.get("/readyz").status == 200
        for name in ("a.example.com", "b.example.com"):
            verified_leaf(server.cert(name), name, pebble.root_certificate())


def test_whatever_root_runs_before_the_first_start_fails_and_creates_nothing(
    server: CertServer, pebble: Pebble
) -> None:
    for command in (["storage", "verify"], ["storage", "rebuild-index"], ["account", "show"]):
        done = server.command(*command)
        assert done.returncode == 1
        assert f"there is no storage in {server.directory}" in done.stderr
    assert [*server.directory.iterdir()] == []
    with server:
        verified_leaf(server.cert("a.example.com"), "a.example.com", pebble.root_certificate())
        assert server.get("/readyz").status == 200


@pytest.mark.parametrize("missing", [False, True])
def test_what_root_copies_into_it_is_the_servers(server: CertServer, tmp_path: Path, missing: bool) -> None:
    if missing:
        server.directory.rmdir()
    source = CertServer(tmp_path / "source", {"re_patterns": [r".+\.example\.com"]})
    source.directory.mkdir(mode=0o700)
    for key in ("_state/a.example.com", "acme_account+key"):
        path = source.directory / key
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.write_bytes(b"{}")
    done = source.run("storage", "copy", str(source.config_file), str(server.config_file))
    assert (server.directory / "_state").is_dir(), done.stdout + done.stderr
    assert of_root(server) == []


@pytest.mark.parametrize("name", [".last-token", "_leases", "_leases/certificates", "_state", "_issued"])
def test_where_root_left_something_behind_readiness_says_so_and_nothing_is_ordered(
    server: CertServer, pebble: Pebble, name: str
) -> None:
    with server:
        verified_leaf(server.cert("a.example.com"), "a.example.com", pebble.root_certificate())
        path = server.directory / name
        assert path.exists()
        os.chown(path, 0, 0)
        path.chmod(0o755 if path.is_dir() else 0o600)
        wait_until(lambda: server.get("/readyz").status == 503)
        [reason] = {line for line in server.log.splitlines() if "event=readyz.not_ready" in line}
        assert f"({path}" in reason
        assert "Permission denied; the server's user must own it" in reason
        assert server.cert("b.example.com").status == 500
        verified_leaf(server.cert("a.example.com"), "a.example.com", pebble.root_certificate())
        assert pebble.order_count() == 1
        os.chown(path, NOBODY, NOBODY)
        verified_leaf(server.cert("b.example.com"), "b.example.com", pebble.root_certificate())
        assert pebble.order_count() == 2


_WRITE = """
import asyncio, sys
from pathlib import Path
from ssl_cert_server.clock import SystemClock
from ssl_cert_server.storage.directory import DirectoryStorage

async def main():
    storage = DirectoryStorage(Path(sys.argv[1]), SystemClock())
    lease = await storage.acquire("work", 30)
    await storage.put("folder/key", b"value", lease=lease)
    print(await storage.get("folder/key"))
    await storage.close()

asyncio.run(main())
"""


def test_a_directory_whose_owner_a_container_does_not_map_is_written_as_before(place: Path) -> None:
    contained = ["unshare", "--map-root-user", "--", sys.executable, "-c"]
    if subprocess.run([*contained, ""], capture_output=True, check=False).returncode != 0:
        pytest.skip("no user namespaces here")
    place.chmod(0o777)
    done = subprocess.run([*contained, _WRITE, str(place)], capture_output=True, text=True, check=False)
    assert done.stdout.endswith("b'value'\n"), done.stderr
