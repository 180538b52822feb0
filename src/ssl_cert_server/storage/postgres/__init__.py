"""Storage in PostgreSQL: see :class:`~ssl_cert_server.storage.postgres.backend.PostgresStorage`."""

from ssl_cert_server.storage.postgres.backend import PostgresStorage
from ssl_cert_server.storage.postgres.settings import PostgresSettings

__all__ = ["PostgresSettings", "PostgresStorage"]
