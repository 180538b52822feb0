"""Which backends there are, and how each is opened: ours by name, others through an entry point.

A package adds a backend by an entry point in the group :data:`GROUP`: its name is what ``storage.type`` says, and it
points to a function that takes the settings under ``storage.<name>``, and a clock, and gives a
:class:`~ssl_cert_server.storage.base.Storage`. Nothing is imported before it is chosen.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import cast

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import CertServerError, StorageError
from ssl_cert_server.storage.base import Storage

GROUP = "ssl_cert_server.storage"

Factory = Callable[[Mapping[str, object], Clock], Storage]

_ALIASES = {"directory": "dir_cache"}
_RESERVED = frozenset({"memory", "seal", "type"})
"""Names that no package's backend can have: they mean something in the configuration."""

_NEAR = 0.6


def known_kinds() -> list[str]:
    """Give what ``storage.type`` may be, ours first."""
    return [*_OURS, *_ALIASES, *sorted(_foreign())]


def is_foreign(kind: str) -> bool:
    """Tell whether a backend comes from another package."""
    return kind not in _taken() and kind in _foreign()


def resolve_kind(kind: str) -> str:
    """Give the one name of a kind of storage.

    :raises ValueError: there is none such, with what may have been meant.
    """
    if kind == "memory":
        raise ValueError("memory forgets every certificate when the server stops; use dir_cache")
    if kind in _OURS or kind in _ALIASES or is_foreign(kind):
        return _ALIASES.get(kind, kind)
    known = known_kinds()
    near = difflib.get_close_matches(kind.lower(), known, n=1, cutoff=_NEAR) if len(kind) <= 40 else []
    if near:
        raise ValueError(f"no such storage; did you mean {near[0]}?")
    raise ValueError(f"no such storage; there are {', '.join(known)}")


def open_backend(kind: str, settings: Mapping[str, object], clock: Clock, *, create: bool = True) -> Storage:
    """Open a backend: ours with its settings' fields by name, another package's with what its section holds.

    With ``create`` off, a directory or PostgreSQL schema that is missing is not created. Redis needs no creating, and
    other packages' backends decide for themselves.

    :raises StorageError: it can't be loaded or opened.
    """
    if is_foreign(kind):
        return _open_foreign(_foreign()[kind], settings, clock)
    return _OURS[resolve_kind(kind)](settings, clock, create)


def _open_directory(settings: Mapping[str, object], clock: Clock, create: bool) -> Storage:  # noqa: FBT001
    return cast(Storage, _from("directory", "DirectoryStorage")(settings["path"], clock, create=create))


def _open_redis(settings: Mapping[str, object], clock: Clock, create: bool) -> Storage:  # noqa: ARG001, FBT001
    return cast(Storage, _from("redis", "RedisStorage")(_from("redis", "RedisSettings")(**settings), clock))


def _open_postgres(settings: Mapping[str, object], clock: Clock, create: bool) -> Storage:  # noqa: FBT001
    opened = _from("postgres", "PostgresSettings")(**settings)
    return cast(Storage, _from("postgres", "PostgresStorage")(opened, clock, create=create))


def _from(module: str, name: str) -> Callable[..., object]:
    try:
        found = getattr(importlib.import_module(f"ssl_cert_server.storage.{module}"), name)
    except ImportError as error:
        # The missing module may be one that the package itself needs, and not the package.
        raise StorageError(
            f"storage.type {module} can't be loaded: {_missing(error)}; install ssl-cert-server again with all that "
            "it needs (pip install -r requirements.lock, or make run)"
        ) from error
    return cast(Callable[..., object], found)


def _missing(error: ImportError) -> str:
    return f"the Python module {error.name} is missing" if isinstance(error, ModuleNotFoundError) else str(error)


def _open_foreign(entry: EntryPoint, settings: Mapping[str, object], clock: Clock) -> Storage:
    package = entry.dist.name if entry.dist else entry.value
    try:
        factory = cast(Factory, entry.load())
        return factory(settings, clock)
    except CertServerError:
        raise
    except Exception as error:
        # Only what went wrong by its kind: the words may hold a password from the settings.
        raise StorageError(
            f"storage.type {entry.name} of the package {package} can't be opened: {type(error).__name__}"
        ) from error


def _foreign() -> Mapping[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP) if entry.name not in _taken()}


def _taken() -> frozenset[str]:
    return _RESERVED | _OURS.keys() | _ALIASES.keys()


_OURS: Mapping[str, Callable[[Mapping[str, object], Clock, bool], Storage]] = {
    "dir_cache": _open_directory,
    "redis": _open_redis,
    "postgres": _open_postgres,
}
