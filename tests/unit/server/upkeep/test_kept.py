"""Where everything lies: nothing that the server keeps is left out."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import ssl_cert_server
from ssl_cert_server.config.load import parse_config
from ssl_cert_server.config.schema import Config
from ssl_cert_server.server.upkeep import kept as module
from ssl_cert_server.server.upkeep.kept import Kept, shares_a_lease
from ssl_cert_server.service.budget.buckets import account_folder
from ssl_cert_server.storage.guarded import MARKS
from tests.support.faulty_storage import FaultyStorage
from tests.unit.server.upkeep.support import ACCOUNT, CA, everything, fill

ROOT = Path(ssl_cert_server.__file__).parent
# The directory's leases, the ends of sealed values, and what a mirror keeps of itself.
NOT_VALUES = {"_leases", "_sealed", "_mirror/cursor", "_mirror/filled"}
# Ends of options' names, and names of attributes.
NOT_FOLDERS = {"_file", "_env", "_key", "_jwk", "_algorithm"}
BUDGET = account_folder(f"{CA} {ACCOUNT}")


def folders_in_the_source() -> set[str]:
    """Every text that is, or begins with, a folder of ours."""
    found = set()
    for file in ROOT.rglob("*.py"):
        tree = ast.parse(file.read_text())
        constants = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
        texts = [text for text in constants if isinstance(text, str)]
        found |= {text.rstrip("/") for text in texts if re.fullmatch(r"_[a-z][a-z_]*(/[a-z0-9-]+)?/?", text)}
    return found


def test_every_folder_of_the_source_is_known_here() -> None:
    known = {*module._FOLDERS, MARKS, "_budgets", "_challenges", "_local_ca/root", *NOT_VALUES}
    assert folders_in_the_source() - known - NOT_FOLDERS == set(), "a folder that no command of `storage` would look at"


async def test_every_key_is_given_once(storage: FaultyStorage, config: Config) -> None:
    await fill(storage)
    keys = [key async for key in Kept(config).keys(storage)]
    assert sorted(keys) == sorted(everything(storage))


async def test_the_mark_comes_last_and_is_no_content(storage: FaultyStorage, config: Config) -> None:
    await storage.put(f"{MARKS}/1", b"")
    assert (await Kept(config).folders(storage))[-1] == MARKS
    assert [key async for key in Kept(config).keys(storage)] == []


async def test_without_an_account_there_is_no_budget_of_it(storage: FaultyStorage, config: Config) -> None:
    folders = await Kept(config).folders(storage)
    assert {folder.split("/")[1] for folder in folders if folder.startswith("_budgets")} == {
        account_folder("on_demand")
    }


async def test_the_cas_of_both_configurations_count(storage: FaultyStorage, config: Config) -> None:
    await fill(storage)
    other = parse_config("", "c")
    assert f"_budgets/{BUDGET}/new_orders" in await Kept(other, config).folders(storage)
    assert f"_budgets/{BUDGET}/new_orders" not in await Kept(other).folders(storage)


@pytest.mark.parametrize(
    ("key", "lease"),
    [
        ("a.example", "certificates/a.example"),
        ("*.a.example+rsa", "certificates/*.a.example+rsa"),
        ("_ocsp/a.example", "ocsp/a.example"),
        ("_state/a.example", "certificates/a.example"),
        ("_issued/a.example+rsa", "certificates/a.example+rsa"),
        ("self_signed", "self_signed/self_signed"),
        ("_accounts/ca.example.com-1.key", "_accounts/ca.example.com-1.json"),
        ("_accounts/ca.example.com-1.next.key", "_accounts/ca.example.com-1.json"),
        ("_accounts/ca.example.com-1.json", "_accounts/ca.example.com-1.json"),
        ("_budgets/a/new_orders/x", "budgets/a"),
        ("_challenges/dns-01/1", "dns-01/1"),
        ("_challenges/tls-alpn-01/a.example", "tls-alpn-01/a.example"),
        ("_local_ca/root", "local_ca/root"),
    ],
)
def test_each_value_has_the_lease_that_it_is_written_under(config: Config, key: str, lease: str) -> None:
    assert Kept(config).lease(key) == lease
    assert shares_a_lease(key.rpartition("/")[0]) == key.startswith("_budgets")


def test_the_predecessors_account_key_belongs_to_lets_encrypts_account(config: Config) -> None:
    lease = Kept(parse_config("", "c")).lease("acme_account+key")
    assert re.fullmatch(r"_accounts/acme-v02\.api\.letsencrypt\.org-[0-9a-f]{8}\.json", lease)
    assert Kept(config).lease("acme_account+key") == "acme_account+key"
