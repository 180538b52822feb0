"""What the contract's tests can't see from outside: locks, order, plans, migrations, connections."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import AsyncConnection, sql

from ssl_cert_server.clock import SystemClock
from ssl_cert_server.errors import LeaseLost, StorageError
from ssl_cert_server.storage.base import CHANGES_KEPT, Due, Lease
from ssl_cert_server.storage.postgres import PostgresSettings, PostgresStorage, changes, due, leases, values
from tests.integration.postgres.conftest import PostgresBackend
from tests.support.clock import ManualClock

NOW = 1_800_000_000.0
LATER = 4e9  # a deadline that is never over


@asynccontextmanager
async def session(backend: PostgresBackend) -> AsyncIterator[AsyncConnection[Any]]:
    """A transaction of the test's own, on the same tables."""
    options = f"-c search_path={backend.schema} -c statement_timeout=20000"
    async with await AsyncConnection.connect(backend.server.dsn(), options=options) as connection:
        yield connection


async def taken(storage: PostgresStorage, name: str = "work", seconds: float = 30) -> Lease:
    lease = await storage.acquire(name, seconds)
    assert lease is not None
    return lease


async def hangs(task: asyncio.Future[Any]) -> bool:
    """Whether a call waits for something; it has had time enough to come back."""
    done, _ = await asyncio.wait((task,), timeout=0.3)
    return not done


# --- leases


async def test_nobody_takes_over_between_the_check_of_a_lease_and_the_commit(
    backend: PostgresBackend, storage: PostgresStorage, peer: PostgresStorage
) -> None:
    lease = await taken(storage, seconds=0)  # lapsed, and in nobody else's hands yet
    fenced = {"lease": lease.name, "token": lease.token, "by": LATER}
    async with session(backend) as writing:
        await writing.execute(values._PUT_UNDER, {"folder": "", "name": "key", "value": b"first", **fenced})
        taking = asyncio.ensure_future(peer.acquire("work", 30))
        assert await hangs(taking)
        await writing.commit()
        held = await taking
    assert held is not None
    assert held.token > lease.token
    assert await peer.get("key") == b"first"
    with pytest.raises(LeaseLost):
        await storage.put("key", b"second", lease=lease)


@pytest.mark.parametrize("what", ["put", "delete", "renew"])
async def test_a_write_that_meets_a_take_over_waits_for_it_and_is_refused(
    backend: PostgresBackend, storage: PostgresStorage, what: str
) -> None:
    await storage.put("key", b"old")
    lease = await taken(storage, seconds=0)
    async with session(backend) as taking:
        await taking.execute(leases._ACQUIRE, {"name": "work", "instance": "another", "seconds": 30.0})
        calls = {
            "put": lambda: storage.put("key", b"new", lease=lease),
            "delete": lambda: storage.delete("key", lease=lease),
            "renew": lambda: storage.renew(lease, 30),
        }
        writing = asyncio.ensure_future(calls[what]())
        assert await hangs(writing)
        await taking.commit()
        with pytest.raises(LeaseLost):
            await writing
    assert await storage.get("key") == b"old"


async def test_who_holds_a_lease_deletes_under_it(storage: PostgresStorage) -> None:
    await storage.put("key", b"value")
    lease = await taken(storage)
    await storage.delete("key", lease=lease)
    await storage.delete("key", lease=lease)
    assert await storage.get("key") is None


async def test_leases_of_long_ago_are_swept_and_tokens_grow_on_though_the_clock_went_back(
    backend: PostgresBackend, storage: PostgresStorage
) -> None:
    before = await taken(storage)
    tokens = f"UPDATE {backend.schema}.leases SET token = token + 1000000000000000"  # a clock decades ahead
    backend.server.execute(tokens)
    for number in range(20):
        await taken(storage, f"other{number}")
    await backend.let_pass(2 * 86400)
    for number in range(leases._SWEEP_EVERY):
        await taken(storage, f"new{number}")
    assert backend.server.execute(f"SELECT 1 FROM {backend.schema}.leases WHERE name LIKE 'other%'") == []
    assert backend.server.execute(f"SELECT 1 FROM {backend.schema}.leases WHERE name = 'work'") == []
    assert (await taken(storage)).token > before.token + 1000000000000000


async def test_a_dead_holders_lease_lapses_within_its_length_though_the_servers_clock_was_set_back(
    backend: PostgresBackend, storage: PostgresStorage, peer: PostgresStorage
) -> None:
    lease = await taken(storage, seconds=5)
    await storage.renew(lease, 30)
    await backend.let_pass(-3600)
    for _ in range(2):
        assert await peer.acquire("work", 30) is None
        assert 0 < lapses_in(backend) <= 30
    await storage.put("key", b"value", lease=lease)
    await storage.renew(lease, 60)
    assert await peer.acquire("work", 30) is None
    assert lapses_in(backend) > 30, "what it was renewed for counts"
    await backend.let_pass(60)
    assert (await taken(peer)).token > lease.token


async def test_a_lease_that_an_older_server_took_is_left_as_it_is(
    backend: PostgresBackend, storage: PostgresStorage, peer: PostgresStorage
) -> None:
    await taken(storage, seconds=5)
    backend.server.execute(f"UPDATE {backend.schema}.leases SET owner = 'f00', until = until + interval '1 hour'")
    assert await peer.acquire("work", 30) is None
    assert lapses_in(backend) > 3000


async def test_a_renewed_lease_is_given_back_by_its_closing_holder(
    storage: PostgresStorage, peer: PostgresStorage
) -> None:
    await storage.renew(await taken(storage), 1000)
    await storage.close()
    await taken(peer)


def lapses_in(backend: PostgresBackend) -> float:
    """Seconds that the one lease still has."""
    look = f"SELECT extract(epoch FROM until - clock_timestamp())::float8 FROM {backend.schema}.leases"
    ((left,),) = backend.server.execute(look)
    return float(left)


async def test_a_lease_whose_acquire_was_cancelled_is_free_when_its_instance_closes(
    backend: PostgresBackend, storage: PostgresStorage, peer: PostgresStorage
) -> None:
    await storage.check_writable()
    for turns in range(40):
        acquiring = asyncio.ensure_future(storage.acquire(f"work{turns}", 1000))
        for _ in range(turns):
            await asyncio.sleep(0)
        acquiring.cancel()
        await asyncio.gather(acquiring, return_exceptions=True)
    await storage.close()
    for turns in range(40):
        await taken(peer, f"work{turns}")


# --- the due index


async def explained(connection: AsyncConnection[Any], statement: str, given: Mapping[str, object]) -> tuple[str, int]:
    """A statement's plan as it was carried out, and how many pages it touched."""
    explain = sql.SQL("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) ") + sql.SQL(statement)
    ((told,),) = await (await connection.execute(explain, given)).fetchall()
    top = told[0]["Plan"]
    return str(told), top["Shared Hit Blocks"] + top["Shared Read Blocks"]


async def fill(backend: PostgresBackend, entries: int, due_now: int) -> None:
    await backend.open().check_writable()
    backend.server.execute(
        f"INSERT INTO {backend.schema}.due SELECT 'work', 'n' || n, %s + n - %s, (n * 7919) %% 1000003"
        " FROM generate_series(1, %s) n",
        [NOW, due_now, entries],
    )


@pytest.mark.parametrize("analysed", [True, False], ids=["analysed", "not analysed"])
@pytest.mark.parametrize("due_now", [50, 99_000])
async def test_a_claim_costs_what_it_takes_and_not_what_is_stored(
    backend: PostgresBackend, due_now: int, analysed: bool
) -> None:
    await fill(backend, 100_000, due_now)
    if analysed:
        backend.server.execute(f"ANALYZE {backend.schema}.due")
    storage = backend.open()
    first = await storage.claim("work", now=NOW, limit=10, seconds=60)
    assert len(first) == 10
    backend.server.execute(f"VACUUM {backend.schema}.due")  # as the server does by itself, a while later
    given = {"queue": "work", "now": NOW, "limit": 10, "until": NOW + 60, "most": 2000, "by": LATER}
    async with session(backend) as looking:
        await looking.execute("SET enable_seqscan = off")
        await looking.execute(due._MAKE_READY, given)  # what it calls is planned once
        for statement, most in ((due._MAKE_READY, 40), (due._NEXT, 40), (due._CLAIM, 300)):
            plan, pages = await explained(looking, statement, given)
            assert "Seq Scan" not in plan
            assert pages < most, plan
        await looking.rollback()


async def test_of_very_much_that_is_due_the_lowest_ranks_go_first_and_each_goes_once(backend: PostgresBackend) -> None:
    await fill(backend, 20_000, 15_000)
    instances = [backend.open() for _ in range(3)]
    first = await instances[0].claim("work", now=NOW, limit=100, seconds=60)
    expected = sorted((n * 7919) % 1000003 for n in range(1, 15_001))
    assert [entry.rank for entry in first] == expected[:100]
    claims = await asyncio.gather(
        *(one.claim("work", now=NOW, limit=500, seconds=60) for _ in range(12) for one in instances)
    )
    keys = [entry.key for claim in [first, *claims] for entry in claim]
    assert len(keys) == len({*keys}) == 15_000


async def test_an_instance_whose_clock_is_ahead_spoils_nothing_for_the_others(
    backend: PostgresBackend, storage: PostgresStorage, peer: PostgresStorage
) -> None:
    await storage.schedule("work", [Due(f"later{n}", NOW + 86400 + n, -1.0) for n in range(3000)])
    await storage.schedule("work", [Due("now", NOW, 5.0)])
    ahead = await peer.claim("work", now=NOW + 10 * 86400, limit=1, seconds=60)
    assert len(ahead) == 1
    assert [entry.key for entry in await storage.claim("work", now=NOW, limit=10, seconds=60)] == ["now"]
    await storage.claim("work", now=NOW, limit=10, seconds=60)
    early = f"SELECT count(*) FROM {backend.schema}.due WHERE ready"
    assert backend.server.execute(early) == [(0,)], "no claim has to pass them by again"
    assert await storage.next_due("work") == NOW + 60


async def test_schedules_claims_and_removals_that_meet_lose_nothing(backend: PostgresBackend) -> None:
    instances = [backend.open(clock=SystemClock()) for _ in range(3)]
    keys = [f"k{number}" for number in range(60)]
    dice = random.Random(1)

    async def work(storage: PostgresStorage) -> None:
        for _ in range(15):
            some = dice.sample(keys, 30)
            await storage.schedule("work", [Due(key, NOW, dice.random()) for key in some])
            await storage.unschedule("work", dice.sample(keys, 20))
            await storage.claim("work", now=NOW, limit=10, seconds=60)

    await asyncio.gather(*(work(storage) for storage in instances for _ in range(3)))
    await instances[0].schedule("work", [Due(key, NOW) for key in keys])
    assert len(await instances[0].claim("work", now=NOW, limit=100, seconds=60)) == 60


# --- changes


async def test_no_reader_skips_an_announcement_that_is_committed_later(
    backend: PostgresBackend, storage: PostgresStorage, peer: PostgresStorage
) -> None:
    cursor = (await storage.changes("", 0)).cursor
    async with session(backend) as first:
        given = {"keys": ["first"], "kept": CHANGES_KEPT, "per_row": 100}
        await first.execute(changes._ANNOUNCE, given)
        second = asyncio.ensure_future(peer.announce(["second"]))
        assert await hangs(second), "an id above the first's would be seen before it"
        assert (await storage.changes(cursor, 0)).keys == ()
        await first.commit()
        await second
    assert (await storage.changes(cursor, 0)).keys == ("first", "second")


async def test_a_reader_that_follows_is_told_everything_that_many_announce_at_once(backend: PostgresBackend) -> None:
    instances = [backend.open() for _ in range(3)]
    cursor = (await instances[0].changes("", 0)).cursor

    async def announce(storage: PostgresStorage, who: int) -> None:
        for number in range(25):
            await storage.announce([f"{who}-{number}"])

    announcing = asyncio.gather(*(announce(instances[who % 3], who) for who in range(9)))
    told: list[str] = []
    while True:
        over = announcing.done()
        news = await instances[0].changes(cursor, 0)
        told += news.keys
        cursor = news.cursor
        if over and not news.keys:
            break
    await announcing
    assert len(told) == len({*told}) == 9 * 25
    for who in range(9):
        mine = [key for key in told if key.startswith(f"{who}-")]
        assert mine == [f"{who}-{number}" for number in range(25)]


async def test_a_cursor_from_before_an_older_state_was_restored_starts_over(
    backend: PostgresBackend, storage: PostgresStorage
) -> None:
    """However much was announced since: ids go on with the clock, so they pass the lost ones at once."""
    await storage.announce(["kept"])
    kept = (await storage.changes("", 0)).cursor
    await storage.announce(["lost"])
    lost = (await storage.changes("", 0)).cursor
    backend.server.execute(f"DELETE FROM {backend.schema}.changes WHERE id > %s", [int(kept)])
    await storage.announce(["since"])
    assert (await storage.changes(lost, 0)).reset
    assert (await storage.changes(kept, 0)).keys == ("since",)


async def test_announcements_are_kept_in_bounds_and_enough_of_them(
    backend: PostgresBackend, storage: PostgresStorage
) -> None:
    for _ in range(5):
        await storage.announce([f"n{number}" for number in range(CHANGES_KEPT // 2)])
    cursor = (await storage.changes("", 0)).cursor
    for number in range(100):
        await storage.announce([f"m{number}-{n}" for n in range(CHANGES_KEPT // 100)])
    told: set[str] = set()
    while (news := await storage.changes(cursor, 0)).keys:
        assert not news.reset
        told |= {*news.keys}
        cursor = news.cursor
    assert len(told) == CHANGES_KEPT
    ((kept,),) = backend.server.execute(f"SELECT sum(cardinality(keys)) FROM {backend.schema}.changes")
    assert CHANGES_KEPT <= kept < 2 * CHANGES_KEPT


async def test_who_waits_is_told_after_the_listening_connection_was_cut(backend: PostgresBackend) -> None:
    waiter, announcer = backend.open(clock=SystemClock()), backend.open()
    cursor = (await waiter.changes("", 0)).cursor
    for number in range(2):
        waiting = asyncio.ensure_future(waiter.changes(cursor, 60))
        await listening(backend)
        cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = %s"
        backend.server.execute(cut, [f'LISTEN "{backend.schema}"'])
        await announcer.announce([f"key{number}"])
        news = await waiting
        assert news.keys == (f"key{number}",)
        cursor = news.cursor


async def test_who_waits_is_told_though_no_notification_comes_through(backend: PostgresBackend) -> None:
    waiter, announcer = backend.open(clock=SystemClock()), backend.open()
    cursor = (await waiter.changes("", 0)).cursor
    waiting = asyncio.ensure_future(waiter.changes(cursor, 60))
    await listening(backend)
    backend.server.execute(
        f"INSERT INTO {backend.schema}.changes SELECT id + 1, total + 1, %s FROM {backend.schema}.changes"
        " ORDER BY id DESC LIMIT 1",
        [["key"]],
    )
    assert (await waiting).keys == ("key",)
    await announcer.announce(["another"])
    assert (await waiter.changes("1", 0)).reset


async def listening(backend: PostgresBackend) -> None:
    """Until an instance listens."""
    look = "SELECT 1 FROM pg_stat_activity WHERE query = %s AND state = 'idle'"
    async with asyncio.timeout(60):
        while not backend.server.execute(look, [f'LISTEN "{backend.schema}"']):  # noqa: ASYNC110 - the server has no event
            await asyncio.sleep(0.05)


# --- the schema


async def test_many_instances_that_start_at_once_make_one_schema(backend: PostgresBackend) -> None:
    instances = [backend.open() for _ in range(8)]
    await asyncio.gather(*(one.put(f"key{number}", b"value") for number, one in enumerate(instances)))
    assert sorted([key async for key in instances[0].list()]) == [f"key{number}" for number in range(8)]
    assert backend.server.execute(f"SELECT version FROM {backend.schema}.schema_version") == [(1,)]


async def test_a_missing_schema_is_not_created_where_it_has_to_exist(backend: PostgresBackend) -> None:
    command = PostgresStorage(backend.settings(), ManualClock(), create=False)
    with pytest.raises(StorageError, match=rf"there is no storage in PostgreSQL's schema {backend.schema}; check"):
        await command.get("a.example.com")
    found = backend.server.execute("SELECT 1 FROM pg_tables WHERE schemaname = %s", [backend.schema])
    assert found == []
    await backend.open().put("a.example.com", b"value")
    assert await command.get("a.example.com") == b"value"
    await command.close()


async def test_an_older_server_leaves_a_newer_schema_alone(backend: PostgresBackend) -> None:
    await backend.open().put("key", b"value")
    backend.server.execute(f"UPDATE {backend.schema}.schema_version SET version = 99")
    older = backend.open()
    for call in (older.get("key"), older.put("key", b"new"), older.check_writable()):
        with pytest.raises(StorageError, match=r"version 99, and this server knows 1: a newer server made it"):
            await call
    backend.server.execute(f"UPDATE {backend.schema}.schema_version SET version = 1")
    assert await older.get("key") == b"value"


async def test_a_schema_that_could_not_be_made_whole_is_not_there_at_all(backend: PostgresBackend) -> None:
    backend.server.execute(f"CREATE SCHEMA {backend.schema}")
    backend.server.execute(f"CREATE TABLE {backend.schema}.changes (other text)")
    storage = backend.open()
    with pytest.raises(StorageError, match='relation "changes" already exists'):
        await storage.get("key")
    backend.server.execute(f"DROP TABLE {backend.schema}.changes")
    assert await storage.get("key") is None


# --- connections


async def test_cancelled_calls_leave_every_connection_usable(backend: PostgresBackend) -> None:
    storage = backend.open(backend.settings(pool_size=2), SystemClock())
    for turns in range(60):
        calls = [storage.put("key", b"x" * 100_000), storage.get("key"), storage.claim("w", now=1, limit=1, seconds=1)]
        tasks = [asyncio.ensure_future(call) for call in calls]
        for _ in range(turns % 30):
            await asyncio.sleep(0)
        if turns >= 30:
            await asyncio.sleep(0.0005 * (turns - 30))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(60):
        await asyncio.gather(*(storage.put(f"key{number}", b"value") for number in range(20)))
        assert await storage.get("key19") == b"value"
    await at_most(backend, 2)


async def test_a_call_that_waits_on_the_server_is_taken_back_there_when_it_is_cancelled(
    backend: PostgresBackend, storage: PostgresStorage
) -> None:
    await storage.put("key", b"old")
    async with session(backend) as blocking:
        await blocking.execute("SELECT 1 FROM kept WHERE name = 'key' FOR UPDATE")
        writing = asyncio.ensure_future(storage.put("key", b"given up"))
        assert await hangs(writing)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        busy = "SELECT 1 FROM pg_stat_activity WHERE query LIKE %s AND wait_event_type = 'Lock'"
        assert backend.server.execute(busy, ["%INSERT INTO kept%"]) == []
        await blocking.rollback()
    assert await storage.get("key") == b"old"


async def test_writes_go_on_over_every_connection_when_the_servers_clock_was_set_forward(
    backend: PostgresBackend, storage: PostgresStorage
) -> None:
    await all_connected(backend, storage)
    before = connection_ids(backend)
    pool = storage._connections._pool
    assert pool is not None
    for connection in pool._pool:
        connection.ahead -= 3600  # as it is for the server, an hour later
    for number in range(8):
        await storage.put(f"key{number}", b"value")
        await storage.schedule("work", [Due(f"key{number}", NOW)])
        await storage.delete(f"other{number}")
    assert connection_ids(backend) == before
    assert all(abs(connection.ahead - pool._pool[0].ahead) < 60 for connection in pool._pool)


async def test_what_comes_too_late_all_the_same_is_refused_and_not_sent_for_ever(
    backend: PostgresBackend, storage: PostgresStorage
) -> None:
    await storage.put("key", b"old")
    backend.server.execute(
        f"CREATE SEQUENCE {backend.schema}.sent; CREATE OR REPLACE FUNCTION {backend.schema}.in_time(by float8)"
        f" RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM nextval('{backend.schema}.sent');"
        " RAISE EXCEPTION 'it came to the server too late' USING ERRCODE = 'SC001'; END $$"
    )
    with pytest.raises(StorageError, match="can't write key in PostgreSQL: it came to the server too late"):
        await storage.put("key", b"new")
    assert backend.server.execute(f"SELECT last_value FROM {backend.schema}.sent") == [(2,)]
    assert await storage.get("key") == b"old"


async def all_connected(backend: PostgresBackend, storage: PostgresStorage) -> None:
    """Until the pool has all connections that it may."""
    await at_most(backend, 0)
    await storage.put("key", b"value")
    async with session(backend) as blocking:
        await blocking.execute("LOCK TABLE kept")
        reads = [asyncio.ensure_future(storage.get("key")) for _ in range(4)]
        async with asyncio.timeout(60):
            while connections(backend) < 4:  # noqa: ASYNC110 - the server has no event
                await asyncio.sleep(0.05)
        await blocking.rollback()
        await asyncio.gather(*reads)


async def test_connections_stay_within_the_pool_and_one_that_listens(backend: PostgresBackend) -> None:
    await at_most(backend, 0)
    storage = backend.open(backend.settings(pool_size=3), SystemClock())
    cursor = (await storage.changes("", 0)).cursor
    waiting = [asyncio.ensure_future(storage.changes(cursor, 60)) for _ in range(20)]
    await asyncio.gather(*(storage.put(f"key{number}", b"value") for number in range(50)))
    assert connections(backend) <= 4
    await storage.announce(["key"])
    assert {(await one).keys for one in waiting} == {("key",)}
    await storage.close()
    await at_most(backend, 0)


async def test_a_server_that_would_not_wait_for_its_disk_has_to(backend: PostgresBackend) -> None:
    dsn = backend.server.dsn(options="-c synchronous_commit=off")
    async with await psycopg.AsyncConnection.connect(dsn) as asked:
        assert await (await asked.execute("SHOW synchronous_commit")).fetchone() == ("off",)
    storage = backend.open(PostgresSettings(dsn, schema=backend.schema))
    rows = await storage._connections.fetch("look", _SETTING, {})
    assert rows == [("local",)]
    await storage.close()


_SETTING: LiteralString = "SELECT current_setting('synchronous_commit')"


def connection_ids(backend: PostgresBackend) -> set[int]:
    look = "SELECT pid FROM pg_stat_activity WHERE application_name = 'ssl-cert-server'"
    return {pid for (pid,) in backend.server.execute(look)}


def connections(backend: PostgresBackend) -> int:
    return len(connection_ids(backend))


async def at_most(backend: PostgresBackend, count: int) -> None:
    """Until there are no more connections than that: the server is a while about those that were closed."""
    async with asyncio.timeout(60):
        while connections(backend) > count:  # noqa: ASYNC110 - the server has no event
            await asyncio.sleep(0.05)
