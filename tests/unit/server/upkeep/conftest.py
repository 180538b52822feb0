"""What the tests of upkeep share: memory to work on, and lines that were told."""

from __future__ import annotations

import pytest

from ssl_cert_server.config.load import parse_config
from ssl_cert_server.config.schema import Config
from ssl_cert_server.server.compose import policy_rules
from ssl_cert_server.server.upkeep.stored import Rules
from ssl_cert_server.service.policy import Policy
from tests.support.faulty_storage import FaultyStorage
from tests.unit.server.upkeep.support import CONFIG


@pytest.fixture
def inner(storage: FaultyStorage) -> FaultyStorage:
    return storage


@pytest.fixture
def config() -> Config:
    return parse_config(CONFIG, "c")


@pytest.fixture
def rules(config: Config) -> Rules:
    return Rules.of(config, Policy(policy_rules(config)))


@pytest.fixture
def lines() -> list[str]:
    return []
