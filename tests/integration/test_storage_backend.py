"""A backend from another package: the one of docs/storage-backends.md, built, installed, and held to the contract."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from importlib import invalidate_caches
from pathlib import Path

import pytest

from ssl_cert_server.errors import StorageError
from ssl_cert_server.storage.base import Storage
from ssl_cert_server.storage.registry import open_backend
from tests.support.clock import ManualClock
from tests.support.installed import install
from tests.support.server import CertServer
from tests.unit.storage import test_contract
from tests.unit.storage.conftest import Backend

globals().update({name: test for name, test in vars(test_contract).items() if name.startswith("test_")})

ROOT = Path(__file__).parents[2]
PROJECT = ROOT / "examples/storage-backend"
SOURCE = PROJECT / "src/ssl_cert_server_sqlite/__init__.py"


class SqliteBackend(Backend):
    """Instances that open one file through the entry point."""

    def __init__(self, place: Path) -> None:
        super().__init__("sqlite", place)
        self._file = str(place / "certs.db")

    def open(self) -> Storage:
        storage = open_backend("sqlite", {"path": self._file}, self._clock)
        self._opened.push_async_callback(storage.close)
        return storage


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the package is installed, and Python finds it."""
    folder = tmp_path_factory.mktemp("backend")
    # Its build writes beside the sources.
    shutil.copytree(PROJECT, folder / "project")
    install(folder / "project", folder / "site")
    sys.path.insert(0, str(folder / "site"))
    invalidate_caches()
    yield folder / "site"
    sys.path.remove(str(folder / "site"))
    sys.modules.pop("ssl_cert_server_sqlite", None)


@pytest.fixture
async def backend(site: Path, tmp_path: Path) -> AsyncIterator[Backend]:
    backend = SqliteBackend(tmp_path / "storage")
    yield backend
    await backend.close()


@pytest.fixture
def storage(backend: Backend) -> Storage:
    return backend.open()


@pytest.fixture
def peer(backend: Backend, storage: Storage) -> Storage:
    return backend.open()


# --- besides the contract


def test_it_is_as_short_as_the_page_says() -> None:
    assert len(SOURCE.read_text().splitlines()) < 205
    page = (ROOT / "docs/storage-backends.md").read_text()
    assert (PROJECT / "pyproject.toml").read_text() in page
    assert SOURCE.read_text() in page


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("settings", [{}, {"path": 1}, {"path": "a", "pth": "b"}])
def test_its_settings_are_its_own_to_judge(settings: dict[str, object]) -> None:
    with pytest.raises(StorageError, match=r"storage\.sqlite must have one key: path"):
        open_backend("sqlite", settings, ManualClock())


@pytest.mark.usefixtures("site")
def test_a_file_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    (tmp_path / "certs.db").write_bytes(b"no database" * 100)
    with pytest.raises(StorageError, match=r"can't open .*certs\.db: file is not a database"):
        open_backend("sqlite", {"path": str(tmp_path / "certs.db")}, ManualClock())


async def test_values_survive_and_only_their_owner_reads_them(site: Path, tmp_path: Path) -> None:
    backend = SqliteBackend(tmp_path)
    await backend.open().put("key", b"value")
    assert (tmp_path / "certs.db").stat().st_mode & 0o777 == 0o600
    assert await backend.open().get("key") == b"value"
    await backend.close()


def test_the_server_runs_with_it_sealed(tmp_path: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate is made, and the same one is served after a restart."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("SEAL_KEY", "ab" * 32)
    file = tmp_path / "certs.db"
    config = {
        "storage": {"type": "sqlite", "sqlite": {"path": str(file)}, "seal": {"keys": [{"env": "SEAL_KEY"}]}},
        "self_signed": {"enable": True},
    }
    with CertServer(tmp_path / "server", config) as server:
        first = server.cert("any.example.com")
        assert first.status == 200
        assert server.get("/readyz").status == 200
        server.stop()
        server.start()
        assert server.cert("any.example.com").json["fingerprint"] == first.json["fingerprint"]
        checked = server.command("storage", "verify")
        assert (checked.returncode, checked.stderr) == (0, ""), checked.stdout
    assert b"PRIVATE KEY" not in b"".join(path.read_bytes() for path in tmp_path.glob("certs.db*"))
