"""Imports point one way, and each room says what it is."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import ssl_cert_server

ROOT = Path(ssl_cert_server.__file__).parent
PACKAGE = ROOT.name

ORDER = [
    {"errors", "files", "model", "clock"},
    {"pki"},
    {"acme"},
    {"storage"},
    {"dns"},
    {"challenges", "ocsp"},
    {"issuers"},
    {"service"},
    {"renewal", "http"},
    {"server"},
    {"cli"},
]
"""Each may import what stands before it."""

CONFIG_MAY_IMPORT = {"errors", "files", "model", "pki"}
CONFIG_MAY_ASK = {f"{PACKAGE}.challenges.dns01.providers.registry", f"{PACKAGE}.storage.registry"}
"""Which providers and backends there are, and what they want to know."""

MAY_IMPORT_CONFIG = {"server", "cli"}


def _allowed() -> dict[str, set[str]]:
    allowed: dict[str, set[str]] = {"config": CONFIG_MAY_IMPORT}
    before: set[str] = set()
    for rooms in ORDER:
        for room in rooms:
            allowed[room] = before | ({"config"} if room in MAY_IMPORT_CONFIG else set())
        before = before | rooms
    return allowed


ALLOWED = _allowed()


def _room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def _imported(path: Path) -> Iterator[str]:
    """Give the dotted names of this package that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == PACKAGE)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            if node.module == PACKAGE:
                yield from (f"{PACKAGE}.{alias.name}" for alias in node.names)
            elif node.module and node.module.startswith(f"{PACKAGE}."):
                yield node.module


MODULES = sorted(path for path in ROOT.rglob("*.py") if path.parent != ROOT or path.stem in ALLOWED)
NAMES = [str(path.relative_to(ROOT)) for path in MODULES]


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_imports_point_one_way(path: Path) -> None:
    room = _room(path)
    for name in _imported(path):
        imported = name.split(".")[1]
        if imported == "__version__" or (room == "config" and name in CONFIG_MAY_ASK):
            continue
        assert imported == room or imported in ALLOWED[room], f"{room} must not import {name}"


def test_every_room_has_its_place() -> None:
    assert {_room(path) for path in ROOT.rglob("*.py")} - {"__init__", "__main__"} <= set(ALLOWED)


def test_the_rules_themselves_say_what_the_design_says() -> None:
    assert "acme" in ALLOWED["storage"]
    assert "storage" not in ALLOWED["acme"]
    assert "config" not in ALLOWED["service"]
    assert "http" not in ALLOWED["renewal"]
    assert {"config", "http", "renewal"} <= ALLOWED["server"] < ALLOWED["cli"]


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("folder", sorted({path.parent for path in MODULES}), ids=lambda folder: folder.name)
def test_every_folder_is_a_package_with_a_docstring(folder: Path) -> None:
    docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
    assert docstring
    assert docstring.endswith(".")
