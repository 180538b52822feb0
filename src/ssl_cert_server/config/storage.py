"""Where certificates are kept: the backends' settings, and the keys that values are sealed with."""

# No `from __future__ import annotations` here: pydantic reads the annotations.

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ModelWrapValidatorHandler,
    PlainValidator,
    PrivateAttr,
    SecretStr,
    model_validator,
)

from ssl_cert_server.config import secrets, values
from ssl_cert_server.config.addresses import redis_address, redis_addresses
from ssl_cert_server.config.section import FilePath, Section, Text, one_or_more
from ssl_cert_server.storage.registry import is_foreign, resolve_kind

_MINUTE = 60
_MOST_CONNECTIONS = 1000
_MOST_REPLICAS = 100


def _kind(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be the name of a kind of storage, like dir_cache")
    return resolve_kind(value)


CaBundle = Annotated[FilePath, AfterValidator(values.ca_bundle)]
Pool = Annotated[int, Field(ge=1, le=_MOST_CONNECTIONS)]
Timeout = Annotated[float, Field(gt=0, le=_MINUTE, allow_inf_nan=False)]


class _WithPassword(Section):
    """A server that may want a password; it never stands in the file itself."""

    password_file: Annotated[SecretStr, PlainValidator(secrets.from_file)] | None = None
    password_env: Annotated[SecretStr, PlainValidator(secrets.from_environment)] | None = None

    @model_validator(mode="after")
    def _one_password(self) -> Self:
        if self.password_file and self.password_env:
            raise ValueError("give one of password_file and password_env")
        return self

    @property
    def password(self) -> str:
        """The password, empty where there is none."""
        given = self.password_file or self.password_env
        return given.get_secret_value() if given else ""


class Redis(_WithPassword):
    """Redis or Valkey: one server, one that Sentinel names, or a cluster."""

    addr: Annotated[Text, AfterValidator(redis_addresses)] = "127.0.0.1:6379"
    username: Text = ""
    sentinels: Annotated[
        tuple[Annotated[Text, AfterValidator(redis_address)], ...],
        BeforeValidator(one_or_more),
    ] = ()
    master: Text = ""
    sentinel_username: Text = ""
    sentinel_password_file: Annotated[SecretStr, PlainValidator(secrets.from_file)] | None = None
    sentinel_password_env: Annotated[SecretStr, PlainValidator(secrets.from_environment)] | None = None
    cluster: bool = False
    prefix: Text = ""
    ca_bundle: CaBundle | None = None
    client_cert: FilePath | None = None
    client_key: FilePath | None = None
    pool: Pool = 16
    timeout: Timeout = 5
    wait_replicas: Annotated[int, Field(ge=0, le=_MOST_REPLICAS)] = 0
    mirror_dir: FilePath | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if bool(self.sentinels) != bool(self.master):
            raise ValueError("sentinels and master belong together: who is asked, and for which master")
        if self.sentinel_password_file and self.sentinel_password_env:
            raise ValueError("give one of sentinel_password_file and sentinel_password_env")
        if "," in self.addr and not self.cluster:
            raise ValueError("several nodes can stand in addr with cluster only; sentinels have a list of their own")
        if self.sentinels and self.cluster:
            raise ValueError("give one of sentinels and cluster")
        if bool(self.client_cert) != bool(self.client_key):
            raise ValueError("client_cert and client_key belong together")
        return self

    @property
    def settings(self) -> Mapping[str, object]:
        """What the backend is opened with."""
        sentinel_password = self.sentinel_password_file or self.sentinel_password_env
        same = ("addr", "username", "cluster", "prefix", "ca_bundle", "client_cert", "client_key", "timeout")
        return {
            **{name: getattr(self, name) for name in same},
            "password": self.password,
            "sentinels": self.sentinels,
            "master_name": self.master,
            "sentinel_username": self.sentinel_username,
            "sentinel_password": sentinel_password.get_secret_value() if sentinel_password else "",
            "pool_size": self.pool,
            "wait_replicas": self.wait_replicas,
        }


with warnings.catch_warnings():
    # pydantic had a method of this name once, which nobody calls here.
    warnings.filterwarnings("ignore", 'Field name "schema"', UserWarning)

    class Postgres(_WithPassword):
        """PostgreSQL. The connection string may hold a password, so it is kept like one."""

        dsn: Annotated[SecretStr, PlainValidator(secrets.inline)] | None = None
        schema: Annotated[Text, AfterValidator(values.schema_name)] = "ssl_cert_server"  # type: ignore[assignment]
        pool: Pool = 10
        timeout: Timeout = 10
        mirror_dir: FilePath | None = None

        @property
        def settings(self) -> Mapping[str, object]:
            """What the backend is opened with."""
            dsn = self.dsn.get_secret_value() if self.dsn else ""
            own = {"schema": self.schema, "pool_size": self.pool, "timeout": self.timeout}
            return {**own, "dsn": dsn, "password": self.password or None}


_SealSecret = AfterValidator(secrets.seal_key)


class SealKey(Section):
    """A key that values are sealed with, wherever it stands."""

    file: Annotated[SecretStr, PlainValidator(secrets.from_file), _SealSecret] | None = None
    env: Annotated[SecretStr, PlainValidator(secrets.from_environment), _SealSecret] | None = None
    credential: Annotated[SecretStr, PlainValidator(secrets.from_credential), _SealSecret] | None = None

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if len(self._given()) != 1:
            raise ValueError("needs exactly one of file, env and credential")
        return self

    @property
    def secret(self) -> bytes:
        """The key itself: 32 bytes."""
        return secrets.seal_key_bytes(self._given()[0].get_secret_value())

    def _given(self) -> list[SecretStr]:
        return [key for key in (self.file, self.env, self.credential) if key is not None]


class Seal(Section):
    """The first key seals, and all of them open."""

    keys: tuple[SealKey, ...] = ()

    @model_validator(mode="after")
    def _keys_differ(self) -> Self:
        if len({key.secret for key in self.keys}) < len(self.keys):
            raise ValueError("the same key is listed twice")
        return self

    @property
    def secrets(self) -> tuple[bytes, ...]:
        """The keys themselves, the one that seals first."""
        return tuple(key.secret for key in self.keys)


class Storage(Section):
    """Where certificates and accounts are kept. Another package's backend has its settings under its own name."""

    type: Annotated[str, PlainValidator(_kind)] = "dir_cache"
    dir_cache: FilePath = Path("./secret-dir")
    redis: Redis = Redis()
    postgres: Postgres = Postgres()
    seal: Seal = Seal()
    _foreign: Mapping[str, object] = PrivateAttr(default={})

    @model_validator(mode="wrap")
    @classmethod
    def _with_foreign_section(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:  # noqa: ANN401
        kind = data.get("type") if isinstance(data, dict) else None
        if not isinstance(kind, str) or not is_foreign(kind):
            return handler(data)
        section = data.get(kind) or {}
        if not isinstance(section, dict):
            raise ValueError(f"{kind} must be a section with keys of its own")
        storage = handler({name: value for name, value in data.items() if name != kind})
        storage._foreign = section  # noqa: SLF001 - its own
        return storage

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.type == "postgres" and self.postgres.dsn is None:
            raise ValueError("postgres.dsn is required where type is postgres")
        return self

    @property
    def mirror_dir(self) -> Path | None:
        """Where what was read is copied to, for when the chosen backend is away."""
        return {"redis": self.redis.mirror_dir, "postgres": self.postgres.mirror_dir}.get(self.type)

    @property
    def settings(self) -> Mapping[str, object]:
        """What the chosen backend is opened with."""
        ours = {
            "dir_cache": {"path": self.dir_cache},
            "redis": self.redis.settings,
            "postgres": self.postgres.settings,
        }
        return ours.get(self.type, self._foreign)
