"""How backends are found and opened."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import pytest

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import StorageError
from ssl_cert_server.storage import registry
from ssl_cert_server.storage.base import Storage
from ssl_cert_server.storage.memory import MemoryStorage
from ssl_cert_server.storage.registry import GROUP, open_backend, resolve_kind
from tests.support.clock import ManualClock

Open = Callable[[Mapping[str, object], Clock], Storage]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Open], None]:
    """Install a package that brings a backend."""

    def install(kind: str, factory: Open) -> None:
        module = ModuleType("some_package")
        module.__dict__["open"] = factory
        monkeypatch.setitem(sys.modules, "some_package", module)
        entry = EntryPoint(kind, "some_package:open", GROUP)
        monkeypatch.setattr(registry, "entry_points", lambda group: [entry] if group == GROUP else [])

    return install


@pytest.mark.parametrize("kind", ["dir_cache", "directory"])
async def test_a_directory(tmp_path: Path, kind: str) -> None:
    storage = open_backend(kind, {"path": tmp_path / "storage"}, ManualClock())
    await storage.put("key", b"value")
    await storage.close()
    assert (tmp_path / "storage" / "key").read_bytes() == b"value"


def test_a_packages_backend_gets_its_settings_and_the_clock(installed: Callable[[str, Open], None]) -> None:
    clock, seen = ManualClock(), list[object]()

    def factory(settings: Mapping[str, object], given: Clock) -> Storage:
        seen.extend([settings, given])
        return MemoryStorage(given)

    installed("sqlite", factory)
    assert resolve_kind("sqlite") == "sqlite"
    assert isinstance(open_backend("sqlite", {"path": "a"}, clock), MemoryStorage)
    assert seen == [{"path": "a"}, clock]


def test_what_a_package_says_is_handed_on_and_other_failures_only_by_their_kind(
    installed: Callable[[str, Open], None],
) -> None:
    def refusing(settings: Mapping[str, object], clock: Clock) -> Storage:
        raise StorageError("sqlite: path is required")

    def failing(settings: Mapping[str, object], clock: Clock) -> Storage:
        raise RuntimeError(f"login failed with {settings['password']}")

    installed("sqlite", refusing)
    with pytest.raises(StorageError, match=r"^sqlite: path is required$"):
        open_backend("sqlite", {}, ManualClock())
    installed("sqlite", failing)
    with pytest.raises(StorageError, match=r"storage.type sqlite of the package .* can't be opened: RuntimeError$"):
        open_backend("sqlite", {"password": "hunter2"}, ManualClock())


def test_a_package_that_cannot_be_loaded_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("sqlite", "no_such_package_anywhere:open", GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    with pytest.raises(StorageError, match=r"storage\.type sqlite .*: ModuleNotFoundError"):
        open_backend("sqlite", {}, ManualClock())


@pytest.mark.parametrize(("kind", "missing"), [("redis", "redis"), ("redis", "hiredis"), ("postgres", "psycopg_pool")])
def test_a_module_that_is_missing_is_named_be_it_a_dependencys(
    monkeypatch: pytest.MonkeyPatch, kind: str, missing: str
) -> None:
    def import_module(name: str) -> ModuleType:
        assert name == f"ssl_cert_server.storage.{kind}"
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    monkeypatch.setattr(importlib, "import_module", import_module)
    words = rf"storage.type {kind} can't be loaded: the Python module {missing} is missing; install ssl-cert-server"
    with pytest.raises(StorageError, match=words):
        open_backend(kind, {}, ManualClock())


def test_a_module_that_can_not_be_imported_for_another_reason_is_told_in_its_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def import_module(name: str) -> ModuleType:
        raise ImportError("libpq.so.5: cannot open shared object file")

    monkeypatch.setattr(importlib, "import_module", import_module)
    with pytest.raises(StorageError, match=r"storage.type postgres can't be loaded: libpq.so.5: cannot open"):
        open_backend("postgres", {}, ManualClock())


def test_nothing_is_imported_before_it_is_chosen() -> None:
    text = Path(registry.__file__).read_text()
    for module in ("directory", "redis", "postgres"):
        assert f"import ssl_cert_server.storage.{module}" not in text
        assert f"from ssl_cert_server.storage.{module}" not in text
