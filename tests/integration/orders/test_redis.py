"""An order that can't be stored in Redis: a value of the wrong type is in the way, or Redis is gone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.orders.scene import Ca, Scene, check_costs_one, check_lasting
from tests.support.fault_proxy import Step
from tests.support.redis_server import RedisServer
from tests.support.storage_faults import down, unreadable, wrong_type


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis"), {"appendonly": "yes", "appendfsync": "always"}) as server:
        yield server


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, ca: Ca, redis: RedisServer) -> Iterator[Scene]:
    storage = {"type": "redis", "redis": {"addr": redis.addr, "timeout": 2}}
    with Scene(tmp_path_factory.mktemp("server"), ca, storage=storage, limits={"new_orders": "1000/1h"}) as scene:
        yield scene


KEYS = (" given-up", " folder _state", " due renewal ranks", " due renewal later")
"""As storage/redis/keys.py has them, without a prefix."""


@pytest.mark.parametrize("key", KEYS)
def test_nothing_is_ordered_while_a_value_is_of_the_wrong_type(scene: Scene, redis: RedisServer, key: str) -> None:
    check_lasting(scene, wrong_type(redis, key))


def test_a_record_that_can_not_be_written_costs_one_order(scene: Scene, redis: RedisServer) -> None:
    check_costs_one(scene, wrong_type(redis, " folder _issued"))


def test_nothing_is_ordered_while_the_budget_can_not_be_read(scene: Scene, redis: RedisServer) -> None:
    (key,) = redis.ask("KEYS", "*_budgets/*/new_orders/all")
    check_lasting(scene, unreadable(redis, key.decode()))


AFTER = [(Step.NEW_ORDER, " given-up"), (Step.NEW_ORDER, " folder _state"), (Step.CERTIFICATE, " given-up")]


@pytest.mark.parametrize(("step", "key"), AFTER)
def test_a_write_that_fails_after_a_step_costs_no_other_order(
    scene: Scene, redis: RedisServer, step: Step, key: str
) -> None:
    check_costs_one(scene, wrong_type(redis, key), at=step)


def test_a_redis_that_is_killed_after_new_order_costs_no_other_order(scene: Scene, redis: RedisServer) -> None:
    """The name's lease, which could not be given back, lapses after half a minute."""
    check_costs_one(scene, down(redis), at=Step.NEW_ORDER)


def test_an_order_that_is_held_in_memory_is_stored_under_the_servers_own_lease(
    scene: Scene, redis: RedisServer
) -> None:
    """Redis has the name's lease again after its restart, and the server is stopped before that lapses."""
    (name,) = scene.new_names(1)
    scene.begin_at(Step.NEW_ORDER, name, down(redis))
    assert scene.server.cert(name).status == 500
    scene.end()
    assert redis.ask("EXISTS", f" lease certificates/{name}")
    assert scene.server.stop() == 0
    assert f"event=state.stored cert_key={name}" in scene.server.log
    assert "event=state.lost" not in scene.server.log
    scene.server.start()
    scene.check_issued(name, orders=1)
