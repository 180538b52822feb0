"""From a configuration to its storage: bare for commands, or with everything around it that a server needs."""

from __future__ import annotations

from dataclasses import dataclass

from ssl_cert_server.clock import Clock
from ssl_cert_server.config.schema import Config
from ssl_cert_server.errors import NotOpened
from ssl_cert_server.issuers.local_ca import ROOT_KEY
from ssl_cert_server.service.retained import RetainedStorage, Retention
from ssl_cert_server.storage.directory import DirectoryStorage
from ssl_cert_server.storage.folders import holds_storage
from ssl_cert_server.storage.guarded import GuardedStorage
from ssl_cert_server.storage.mirror import MirroredStorage
from ssl_cert_server.storage.mirror_directory import REMEDY as MIRROR_REMEDY
from ssl_cert_server.storage.mirror_directory import MirrorDirectory
from ssl_cert_server.storage.own_leases import OwnLeases
from ssl_cert_server.storage.registry import open_backend
from ssl_cert_server.storage.seal import Form, Sealer, SealKey, form_of, is_sealed
from ssl_cert_server.storage.sealed import SealedStorage


@dataclass(frozen=True, slots=True)
class Mirror:
    """The parts of a mirror, for what watches it."""

    directory: MirrorDirectory
    mirrored: MirroredStorage
    guarded: GuardedStorage
    copies: SealedStorage
    """``directory``, with values that are sealed as they are written."""


@dataclass(frozen=True, slots=True)
class Storages:
    """A server's ``storage``; ``mirror`` is None where none is configured."""

    storage: RetainedStorage
    retention: Retention
    mirror: Mirror | None = None


def open_storage(config: Config, clock: Clock, *, seal: bool = True, create: bool = False) -> SealedStorage:
    """Open the storage that the configuration names, and nothing else: no mirror answers for it.

    A storage that is missing is created only with ``create``: an operator's mistyped path is an error.

    With ``seal`` off, what is written stays unsealed. Without keys it is sealed storage, too: what was sealed is
    refused there, not taken for broken and issued anew.

    :raises StorageError: it can't be opened, or is missing while ``create`` is off.
    """
    settings = config.storage
    backend = open_backend(settings.type, settings.settings, clock, create=create)
    return SealedStorage(backend, _sealer(config, seal=seal))


def open_storages(config: Config, clock: Clock, *, create: bool = False) -> Storages:
    """Open the storage that the configuration names, with its mirror, and with what certificates are kept by.

    What is missing is created only with ``create``; without, a missing mirror is left out.

    :raises StorageError: it can't be opened, or is missing while ``create`` is off.
    """
    settings, sealer = config.storage, _sealer(config)
    backend = OwnLeases(open_backend(settings.type, settings.settings, clock, create=create))
    mirror_dir = settings.mirror_dir
    if settings.type == "dir_cache":  # a directory looks after itself
        return _without_mirror(SealedStorage(backend, sealer), config, clock)
    if mirror_dir is None or not (create or holds_storage(mirror_dir)):
        return _without_mirror(SealedStorage(GuardedStorage(backend), sealer), config, clock)
    # The server does without a mirror that is broken, as it would where it broke later; a command's user is told.
    directory = MirrorDirectory(
        lambda: DirectoryStorage(mirror_dir, clock, create=create, remedy=MIRROR_REMEDY), required=not create
    )
    guarded = GuardedStorage(backend, directory)
    copies = SealedStorage(directory, sealer)
    retention = Retention(SealedStorage(guarded, sealer), copies, clock, fixed=operators_keys(config))

    async def may_replace(key: str, copy: bytes, value: bytes) -> bool:
        opened = _opened(sealer, key, copy)
        return opened is None or await retention.may_replace(key, opened, _opened(sealer, key, value))

    # Below the seal: what is copied stays as sealed as it was read.
    mirrored = MirroredStorage(guarded, directory, clock, may_replace)
    storage = RetainedStorage(SealedStorage(mirrored, sealer), retention)
    return Storages(storage, retention, Mirror(directory, mirrored, guarded, copies))


def operators_keys(config: Config) -> frozenset[str]:
    """Return the keys whose value is right whatever its age: an operator may have put it there."""
    return frozenset({ROOT_KEY, *(rule.cert_key for rule in config.managed)})


def self_signed_keys(config: Config) -> frozenset[str]:
    """Return the key of the self-signed certificate, where that is enabled."""
    return frozenset({config.self_signed.cert_key} if config.self_signed.enable else ())


def _without_mirror(primary: SealedStorage, config: Config, clock: Clock) -> Storages:
    retention = Retention(primary, None, clock, fixed=operators_keys(config))
    return Storages(RetainedStorage(primary, retention), retention)


def _sealer(config: Config, *, seal: bool = True) -> Sealer:
    return Sealer((SealKey(secret) for secret in config.storage.seal.secrets), seal=seal)


def _opened(sealer: Sealer, key: str, value: bytes) -> bytes | None:
    """Open a value as it is stored; None where that can't be done, or where a part of it is stored elsewhere."""
    if not is_sealed(value):
        return value
    try:
        return sealer.open(key, value) if form_of(value) is Form.WHOLE else None
    except NotOpened:
        return None
