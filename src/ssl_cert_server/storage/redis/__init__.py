"""Storage in Redis or Valkey: values as the predecessor kept them, leases, the due index and news beside them."""

from ssl_cert_server.storage.redis.backend import RedisStorage
from ssl_cert_server.storage.redis.settings import RedisSettings

__all__ = ["RedisSettings", "RedisStorage"]
