"""An order that can't be stored in PostgreSQL: a table is locked, a right is missing, or PostgreSQL is gone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.orders.scene import Ca, Scene, check_costs_one, check_lasting
from tests.support.fault_proxy import Step
from tests.support.postgres_server import PostgresServer
from tests.support.storage_faults import down, insert_refused, table_locked

SCHEMA = "ssl_cert_server"
ROLE = "tenant"


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        server.execute("CREATE ROLE tenant LOGIN PASSWORD 'tenant'")
        server.execute("CREATE SCHEMA ssl_cert_server AUTHORIZATION tenant")
        yield server


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, ca: Ca, postgres: PostgresServer) -> Iterator[Scene]:
    dsn = postgres.dsn(user=ROLE, password=ROLE)
    storage = {"type": "postgres", "postgres": {"dsn": dsn, "timeout": 1}}
    with Scene(tmp_path_factory.mktemp("server"), ca, storage=storage) as scene:
        yield scene


@pytest.mark.parametrize("table", ["kept", "due", "leases"])
def test_nothing_is_ordered_while_a_table_is_locked(scene: Scene, postgres: PostgresServer, table: str) -> None:
    check_lasting(scene, table_locked(postgres, SCHEMA, table))


@pytest.mark.parametrize("table", ["kept", "due", "leases"])
def test_nothing_is_ordered_without_the_right_to_insert(scene: Scene, postgres: PostgresServer, table: str) -> None:
    check_lasting(scene, insert_refused(postgres, SCHEMA, table, ROLE))


def test_a_table_that_is_locked_after_new_order_costs_no_other_order(scene: Scene, postgres: PostgresServer) -> None:
    check_costs_one(scene, table_locked(postgres, SCHEMA, "kept"), at=Step.NEW_ORDER)


def test_a_right_that_is_taken_away_after_new_order_costs_no_other_order(
    scene: Scene, postgres: PostgresServer
) -> None:
    check_costs_one(scene, insert_refused(postgres, SCHEMA, "kept", ROLE), at=Step.NEW_ORDER)


def test_a_postgresql_that_is_killed_before_the_certificate_is_stored_costs_no_other_order(
    scene: Scene, postgres: PostgresServer
) -> None:
    """The name's lease, which could not be given back, lapses after half a minute."""
    check_costs_one(scene, down(postgres), at=Step.CERTIFICATE)
