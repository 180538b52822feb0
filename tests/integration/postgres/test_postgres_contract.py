"""The contract's own tests, over PostgreSQL: the fixtures of this folder take the place of those beside them."""

from __future__ import annotations

from tests.unit.storage.test_contract import *  # noqa: F403 - every test there is, and those to come
