"""What docs/configuration.md says is what the schema does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import pytest
from pydantic import create_model
from pydantic.fields import FieldInfo

from ssl_cert_server.config.keys import join, sections
from ssl_cert_server.config.load import parse_config
from ssl_cert_server.config.tree import parse_tree
from tests.unit.config.support import write_root

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "configuration.md"

# A table's row; a | inside a cell is written as \|.
_ROW = re.compile(r"^\| `([a-z0-9_.\[\]]+)` \|" + 4 * r" ((?:\\\||[^|])+) \|" + "$", re.MULTILINE)
_BLOCK = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks() -> list[tuple[str, str]]:
    pages = [*sorted((ROOT / "docs").glob("*.md")), *ROOT.glob("README.md")]
    return [(page.name, block) for page in pages for block in _BLOCK.findall(page.read_text())]


def rows() -> dict[str, tuple[str, str]]:
    """Map every documented key to its default and its example."""
    return {
        key: (default.replace("\\|", "|").strip("`"), example.replace("\\|", "|").strip("`"))
        for key, _, default, example, _ in _ROW.findall(PAGE.read_text())
    }


def fields() -> dict[str, FieldInfo]:
    """Map every key that holds a value, and no section, to its field."""
    places = {place.removesuffix("[]") for place in sections()}
    return {
        join(place, name): field
        for place, section in sections().items()
        for name, field in section.model_fields.items()
        if join(place, name) not in places
    }


def validated(field: FieldInfo, text: str) -> object:
    holder = create_model("Holder", value=(cast(Any, field.annotation), field))
    value = parse_tree(f"value: {text}", "c").data["value"]
    return getattr(holder.model_validate({"value": value}), "value")  # noqa: B009 - mypy can't know it


@pytest.fixture(autouse=True)
def _files_the_page_mentions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_root(tmp_path / "pebble.pem")
    (tmp_path / "zerossl.key").write_text("bm90LWEtc2VjcmV0\n")
    monkeypatch.setenv("ZEROSSL_HMAC_KEY", "bm90LWEtc2VjcmV0")
    _storage_files(tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)


def _storage_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_root(folder / "redis-ca.pem")
    for name in ("redis.password", "database.password"):
        (folder / name).write_text("a password\n")
    for name in ("REDIS_PASSWORD", "DATABASE_PASSWORD"):
        monkeypatch.setenv(name, "a password")
    (folder / "seal-2025-11.key").write_text("00" * 32)
    (folder / "seal-2026-11").write_text("11" * 32)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    monkeypatch.setenv("SEAL_KEY", "22" * 32)


def test_there_are_blocks_to_run() -> None:
    assert len([page for page, _ in blocks() if page == "configuration.md"]) >= 3


@pytest.mark.parametrize(("page", "block"), blocks())
def test_every_block_loads(page: str, block: str) -> None:
    parse_config(block, page)


def test_every_key_is_in_a_table_and_no_other() -> None:
    assert sorted(rows()) == sorted(fields())


@pytest.mark.parametrize("key", sorted(fields()))
def test_defaults_and_examples(key: str) -> None:
    field = fields()[key]
    default, example = rows()[key]
    if field.is_required():
        assert default == "required"
    else:
        assert validated(field, default) == field.get_default()
    validated(field, example)
