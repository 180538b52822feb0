"""Where the database is, and how it is talked to."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ssl_cert_server.errors import StorageError

_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}")


@dataclass(frozen=True, slots=True)
class PostgresSettings:
    """How to reach the database.

    ``dsn`` is libpq's: ``postgresql://user@host/database?sslmode=verify-full`` or ``host=... dbname=...``; several
    hosts are asked in turn for the one that can be written. ``password`` goes before the one in ``dsn``. All tables
    are in ``schema``. ``pool_size`` connections at most are open, and one that listens; a call takes ``timeout``
    seconds at most, and a few more where the server doesn't even let it be cancelled.
    """

    dsn: str = field(repr=False)
    password: str | None = field(default=None, repr=False)
    schema: str = "ssl_cert_server"
    pool_size: int = 10
    timeout: float = 10.0

    def conninfo(self) -> str:
        """Give libpq's parameters, the password among them, with defaults of ours where nothing was said.

        :raises StorageError: they make no sense; what they are is not in the message, for a password may be.
        """
        given = self._given()
        return make_conninfo("", **(self._defaults(given) | given))

    def secrets(self) -> list[str]:
        """Give what no message may hold."""
        given = self._given()
        return [given[name] for name in ("password", "sslpassword") if given.get(name)]

    def _given(self) -> dict[str, str]:
        self._check()
        try:
            given: dict[str, str] = {
                name: str(value) for name, value in conninfo_to_dict(self.dsn).items() if value is not None
            }
        except psycopg.Error:
            raise StorageError("PostgreSQL's dsn is neither a postgresql:// URL nor a list of name=value") from None
        # Parts of a password, most likely, and what libpq says of them would show them.
        if "@" in given.get("host", "") + given.get("dbname", "") or re.search("[^0-9,]", given.get("port", "")):
            raise StorageError("PostgreSQL's dsn can't be taken apart: write @, / and : in a password as %40, %2F, %3A")
        if self.password is not None:
            given["password"] = self.password
        return given

    def _check(self) -> None:
        if not _SCHEMA.fullmatch(self.schema) or self.schema.startswith("pg_"):
            raise StorageError(f"{self.schema[:80]!r} can't be a schema: lower-case letters, digits and _, no pg_")
        if self.pool_size < 1:
            raise StorageError("PostgreSQL's pool needs one connection at least")
        if not (math.isfinite(self.timeout) and self.timeout >= 1):
            raise StorageError("PostgreSQL's timeout can't be under a second")

    def _defaults(self, given: dict[str, str]) -> dict[str, str]:
        defaults = {
            "fallback_application_name": "ssl-cert-server",
            "client_encoding": "UTF8",
            "connect_timeout": str(max(2, round(self.timeout))),
            # What the network swallowed must be given up by the kernel, too, and not arrive much later.
            "tcp_user_timeout": str(round(self.timeout * 1000)),
            "keepalives_idle": "30",
            "keepalives_interval": "10",
            "keepalives_count": "3",
        }
        if "," in given.get("host", "") + given.get("hostaddr", ""):
            defaults["target_session_attrs"] = "read-write"
        return defaults
