"""``ssl-cert-server storage remove``: takes a certificate out of storage, and out of every instance."""

# No `from __future__ import annotations` here: typer reads the annotations.

import asyncio
from typing import Annotated

import typer

from ssl_cert_server.cli.options import ConfigFile, Yes, configuration, confirm
from ssl_cert_server.cli.printing import print_in_background
from ssl_cert_server.clock import SystemClock
from ssl_cert_server.config.schema import Config
from ssl_cert_server.errors import StorageError
from ssl_cert_server.server.removal import remove_stored
from ssl_cert_server.server.storages import open_storages
from ssl_cert_server.server.upkeep.kept import ACCOUNT_KEY, Kept

Key = Annotated[
    str, typer.Argument(metavar="KEY", help="A name, NAME+rsa, a wildcard, or the cert_key of another certificate.")
]


def remove(key: Key, config: ConfigFile = None, yes: Yes = False) -> None:  # noqa: FBT002 - an option
    """Remove the certificate under KEY without revoking it. Servers may run meanwhile.

    Where the configuration permits the name, the next request for it has another certificate issued.
    """
    loaded, _ = configuration(config)
    if "/" in key or key == ACCOUNT_KEY:
        raise StorageError(f"{key} is not the key of a certificate; nothing was removed")
    confirm(f"Remove the certificate under {key}? It stays valid, and is not brought back from a backup.", yes=yes)
    print_in_background()
    fingerprint = asyncio.run(_remove(loaded, key))
    what = f"the certificate {fingerprint}" if fingerprint else "the value, which is no certificate,"
    typer.echo(f"{key}: {what} is removed")


async def _remove(config: Config, key: str) -> str:
    clock = SystemClock()
    storage = open_storages(config, clock).storage
    try:
        return await remove_stored(storage, key, clock, lease_name=Kept(config).lease(key))
    finally:
        await storage.close()
