"""psycopg's errors in our words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psycopg
from psycopg_pool import PoolClosed, PoolTimeout

from ssl_cert_server.errors import StorageError

_LONGEST = 500


class NotReplicated(Exception):
    """The server gave up waiting for its standby: what was written is there, and may not survive a failover."""


@contextmanager
def translated(doing: str, seconds: float, secrets: Sequence[str]) -> Iterator[None]:
    """Have everything psycopg raises be a StorageError that tells what could not be done, and no secret."""
    try:
        yield
    except TimeoutError as error:
        raise StorageError(f"can't {doing} in PostgreSQL: no answer in {seconds:.0f} s") from error
    except PoolTimeout as error:
        raise StorageError(f"can't {doing} in PostgreSQL: no connection was free for {seconds:.0f} s") from error
    except PoolClosed:
        raise StorageError(f"can't {doing} in PostgreSQL: the storage is closed") from None
    except NotReplicated as error:
        raise StorageError(f"can't {doing} in PostgreSQL durably: no standby confirmed it") from error
    except StorageError as error:
        raise StorageError(f"can't {doing} in PostgreSQL: {error}") from error
    except (psycopg.Error, OSError) as error:
        # Not chained where it would bring a secret into a traceback.
        told = reason(error, ())
        hidden = reason(error, secrets)
        raise StorageError(f"can't {doing} in PostgreSQL: {hidden}") from (error if hidden == told else None)


def reason(error: Exception, secrets: Sequence[str]) -> str:
    """Give what an error says, in one line, and without the secrets."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        text = error.diag.message_primary
    for secret in secrets:
        text = text.replace(secret, "...")
    return text[:_LONGEST]
