"""``ssl-cert-server storage reseal``: after sealing was switched on, or a key changed."""

# No `from __future__ import annotations` here: typer reads the annotations.

import asyncio
from typing import Annotated

import typer

from ssl_cert_server.cli.options import ConfigFile, configuration
from ssl_cert_server.cli.printing import print_in_background
from ssl_cert_server.cli.progress import count_for_bar, progress
from ssl_cert_server.clock import SystemClock
from ssl_cert_server.config.schema import Config
from ssl_cert_server.errors import StartError
from ssl_cert_server.server.storages import open_storage
from ssl_cert_server.server.upkeep.kept import Kept
from ssl_cert_server.server.upkeep.reseal import Counts, Reseal


def reseal(
    config: ConfigFile = None,
    unseal: Annotated[  # noqa: FBT002 - an option
        bool, typer.Option("--unseal", help="Write everything unsealed, before the keys are taken away.")
    ] = False,
) -> None:
    """Seal every stored value with the first of storage.seal.keys; those that are so already are skipped.

    Servers may run meanwhile. The exit code is 1 where anything was left; run it again then.
    """
    loaded, _ = configuration(config)
    if not loaded.storage.seal.keys:
        raise StartError("there are no storage.seal.keys; `ssl-cert-server storage new-key` prints one")
    print_in_background()
    counts = asyncio.run(_reseal(loaded, seal=not unseal))
    typer.echo(
        f"{counts.rewritten} {'unsealed' if unseal else 'sealed'}, {counts.current} were so already, "
        f"{counts.busy} in use, {counts.unreadable} unreadable"
    )
    if not counts.complete:
        raise typer.Exit(1)


async def _reseal(config: Config, *, seal: bool) -> Counts:
    clock, kept = SystemClock(), Kept(config)
    storage = open_storage(config, clock, seal=seal)
    try:
        total = await count_for_bar(kept, storage)
        with progress("sealing" if seal else "unsealing", total) as step:
            return await Reseal(storage, kept, clock, typer.echo, step).run()
    finally:
        await storage.close()
