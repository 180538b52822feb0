"""``ssl-cert-server storage copy FROM TO``: from any kind of storage to any other."""

# No `from __future__ import annotations` here: typer reads the annotations.

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from ssl_cert_server.cli.printing import print_in_background
from ssl_cert_server.cli.progress import count_for_bar, progress
from ssl_cert_server.clock import SystemClock
from ssl_cert_server.config.load import load_config
from ssl_cert_server.config.schema import Config
from ssl_cert_server.server.storages import open_storage
from ssl_cert_server.server.upkeep.copy import Counts, StorageCopy
from ssl_cert_server.server.upkeep.kept import Kept


def copy(
    source: Annotated[Path, typer.Argument(metavar="FROM", help="The configuration file whose storage is read.")],
    target: Annotated[Path, typer.Argument(metavar="TO", help="The configuration file whose storage is written.")],
    overwrite: Annotated[  # noqa: FBT002 - an option
        bool, typer.Option("--overwrite", help="Replace values in TO that differ; TO need not be empty.")
    ] = False,
    resume: Annotated[  # noqa: FBT002 - an option
        bool, typer.Option("--resume", help="Go on with a copy that was interrupted; TO need not be empty.")
    ] = False,
) -> None:
    """Copy all values and all that is planned from one storage to another; leases are not copied.

    Values that are there already with equal bytes are skipped. The exit code is 1 where anything was left out.
    """
    configs = load_config(source), load_config(target)
    print_in_background()
    counts = asyncio.run(_copy(*configs, empty=not (overwrite or resume), overwrite=overwrite))
    typer.echo(
        f"{counts.copied} copied, {counts.same} there already, {counts.replaced} replaced, "
        f"{counts.different} different and left, {counts.unreadable} unreadable; {counts.scheduled} entries scheduled"
    )
    if not counts.complete:
        raise typer.Exit(1)


async def _copy(source: Config, target: Config, *, empty: bool, overwrite: bool) -> Counts:
    clock, kept = SystemClock(), Kept(source, target)
    reading = open_storage(source, clock)
    try:
        writing = open_storage(target, clock, create=True)
        try:
            total = await count_for_bar(kept, reading)
            with progress("copying", total) as step:
                work = StorageCopy(reading, writing, kept, typer.echo, step, overwrite=overwrite)
                if empty:
                    await work.check_empty()
                return await work.run()
        finally:
            await writing.close()
    finally:
        await reading.close()
