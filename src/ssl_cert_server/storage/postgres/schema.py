"""The tables and functions, and how a database gets them."""

from __future__ import annotations

from typing import Any, LiteralString

from psycopg import AsyncConnection, errors, sql

from ssl_cert_server.errors import StorageError

_VALUES = """
-- What its caller gave up, and the server finds later, must not land after what came next.
CREATE FUNCTION in_time(by double precision) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF extract(epoch FROM clock_timestamp()) >= by THEN
        RAISE EXCEPTION 'it came to the server too late' USING ERRCODE = 'SC001';
    END IF;
    RETURN true;
END $$;

CREATE TABLE kept (
    folder text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    value bytea NOT NULL,
    PRIMARY KEY (folder, name)
);

-- Writes what a certificate would, and takes it back; the commit waits as any other does.
CREATE TABLE probes (value bytea NOT NULL);
CREATE FUNCTION probe(value bytea) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO probes VALUES (probe.value);
    DELETE FROM probes;
END $$;
"""

_LEASES = """
CREATE TABLE leases (
    name text COLLATE "C" PRIMARY KEY,
    token bigint NOT NULL,
    owner text NOT NULL,
    until timestamptz NOT NULL,
    released boolean NOT NULL
);
CREATE INDEX leases_until ON leases (until);

-- No token of a swept lease is above this.
CREATE TABLE lease_floor (token bigint NOT NULL);
INSERT INTO lease_floor VALUES (0);

-- Microseconds of the clock go on where a sequence would go back: after a failover that lost something, after a
-- restored backup. Where the clock goes back, the lease's last token counts.
CREATE FUNCTION token_after(last bigint) RETURNS bigint LANGUAGE sql VOLATILE AS $$
    SELECT greatest(last + 1, token + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint) FROM lease_floor
$$;

-- Forgets leases that lapsed or were given back a day ago.
CREATE FUNCTION sweep_leases(most integer) RETURNS void LANGUAGE sql VOLATILE AS $$
    WITH old AS MATERIALIZED (
        SELECT name FROM leases WHERE until < clock_timestamp() - interval '1 day'
        ORDER BY until LIMIT most FOR UPDATE SKIP LOCKED
    ), gone AS (
        DELETE FROM leases USING old WHERE leases.name = old.name RETURNING leases.token
    )
    UPDATE lease_floor SET token = greatest(token, (SELECT max(gone.token) FROM gone)) WHERE EXISTS (SELECT FROM gone)
$$;
"""

_DUE = """
CREATE TABLE due (
    queue text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    at double precision NOT NULL,
    rank double precision NOT NULL,
    ready boolean NOT NULL DEFAULT false,
    PRIMARY KEY (queue, key)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.05);
-- A row says that the index knows of everything stored.
CREATE TABLE due_complete (one boolean PRIMARY KEY CHECK (one));
CREATE INDEX due_by_time ON due (queue, ready, at);
CREATE INDEX due_by_rank ON due (queue, rank) WHERE ready;

-- Makes what came due ready, one batch, and tells how many; ready entries are claimed by rank.
CREATE FUNCTION make_ready(queue_ text, now_ double precision, most integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    moved integer;
    soonest double precision;
BEGIN
    -- Some clock was ahead: every claim would have to pass these by.
    WITH early AS MATERIALIZED (
        SELECT key FROM due WHERE queue = queue_ AND ready AND at > now_ + 3600
        ORDER BY at DESC LIMIT most FOR UPDATE SKIP LOCKED
    )
    UPDATE due SET ready = false FROM early WHERE due.queue = queue_ AND due.key = early.key;
    -- In this order, so that there is but one index to go by, whatever the statistics say.
    SELECT at INTO soonest FROM due WHERE queue = queue_ AND NOT ready ORDER BY at LIMIT 1;
    IF soonest IS NULL OR soonest > now_ THEN
        RETURN 0;
    END IF;
    -- One at a time, and the others wait: else they would find nothing ready where much is due.
    PERFORM pg_advisory_xact_lock(hashtextextended(current_schema || '/due/' || queue_, 0));
    WITH come AS MATERIALIZED (
        SELECT key FROM due WHERE queue = queue_ AND NOT ready AND at <= now_
        ORDER BY at LIMIT most FOR UPDATE SKIP LOCKED
    )
    UPDATE due SET ready = true FROM come WHERE due.queue = queue_ AND due.key = come.key;
    GET DIAGNOSTICS moved = ROW_COUNT;
    RETURN moved;
END $$;
"""

_CHANGES = """
CREATE TABLE changes (
    id bigint PRIMARY KEY,
    total bigint NOT NULL,
    keys text[] NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.05);
INSERT INTO changes VALUES ((extract(epoch FROM clock_timestamp()) * 1000000)::bigint, 0, '{}');

-- One at a time, until the commit: a reader that saw an id has seen, or can see, every lower one. Ids follow the
-- clock, so that none is given twice where a failover lost the last ones.
CREATE FUNCTION announce(told text[], kept integer, per_row integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE last changes%ROWTYPE;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(current_schema || '/changes', 0));
    SELECT * INTO STRICT last FROM changes ORDER BY id DESC LIMIT 1;
    FOR start IN 1 .. cardinality(told) BY per_row LOOP
        last.keys := told[start : start + per_row - 1];
        last.total := last.total + cardinality(last.keys);
        last.id := greatest(last.id + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint);
        INSERT INTO changes VALUES (last.*);
    END LOOP;
    -- The oldest row that stays may be anybody's cursor, and everything after it is told.
    DELETE FROM changes USING (
        SELECT id FROM changes ORDER BY id LIMIT 10 + 2 * (cardinality(told) / per_row + 1)
    ) oldest WHERE changes.id = oldest.id AND total < last.total - kept - per_row;
    PERFORM pg_notify(current_schema, '');
END $$;
"""

MIGRATIONS: tuple[LiteralString, ...] = (_VALUES + _LEASES + _DUE + _CHANGES,)
"""The n-th brings the schema from version n-1 to n. What was released is never edited."""


async def prepare_schema(connection: AsyncConnection[Any], schema: str, *, create: bool = True) -> None:
    """Create the schema, or bring it up to date; the connection's search_path leads to it.

    :raises StorageError: a newer server made it, or it is missing while ``create`` is off.
    """
    version = await _version(connection, schema)
    if version == len(MIGRATIONS):
        return
    if version == 0 and not create:
        raise StorageError(
            f"there is no storage in PostgreSQL's schema {schema}; check storage.postgres, or start the server once, "
            "which creates it"
        )
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"{schema}/schema"])
        version = await _version(connection, schema)  # others may have been first
        if version == 0:
            await _create(connection, schema)
        for number in range(version, len(MIGRATIONS)):
            await connection.execute(MIGRATIONS[number])
        await connection.execute("UPDATE schema_version SET version = %s", [len(MIGRATIONS)])


async def _version(connection: AsyncConnection[Any], schema: str) -> int:
    try:
        async with connection.transaction():
            row = await (await connection.execute("SELECT version FROM schema_version")).fetchone()
    except (errors.UndefinedTable, errors.InvalidSchemaName):
        return 0
    version: int = row[0] if row else 0
    if version > len(MIGRATIONS):
        raise StorageError(
            f"PostgreSQL's schema {schema} has version {version}, and this server knows {len(MIGRATIONS)}:"
            " a newer server made it, and an older one can't use it any more"
        )
    return version


async def _create(connection: AsyncConnection[Any], schema: str) -> None:
    found = await connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", [schema])
    if await found.fetchone() is None:  # IF NOT EXISTS asks for the right to create, even where nothing has to be
        await connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
    await connection.execute("CREATE TABLE schema_version (version integer NOT NULL)")
    await connection.execute("INSERT INTO schema_version VALUES (0)")
