"""``ssl-cert-server storage verify``: whether everything that is stored can be used."""

# No `from __future__ import annotations` here: typer reads the annotations.

import asyncio

import typer

from ssl_cert_server.cli.options import ConfigFile, configuration
from ssl_cert_server.cli.progress import count_for_bar, progress
from ssl_cert_server.clock import SystemClock
from ssl_cert_server.config.schema import Config
from ssl_cert_server.server.compose import policy_rules, renewal_plan
from ssl_cert_server.server.storages import open_storage
from ssl_cert_server.server.upkeep.kept import Kept
from ssl_cert_server.server.upkeep.stored import Rules
from ssl_cert_server.server.upkeep.verify import Verification
from ssl_cert_server.service.policy import Policy


def verify(config: ConfigFile = None) -> None:
    """Look at every stored value, and print a line for everything that is wrong; the exit code is 1 then.

    Keys and certificates must belong together, cover their names and not be expired, and each must be renewed, asked
    about and warned of in time.
    """
    loaded, _ = configuration(config)
    done = asyncio.run(_verify(loaded))
    typer.echo(f"{done.values} values, {done.certificates} of them certificates: {done.findings} findings")
    if done.findings:
        raise typer.Exit(1)


async def _verify(config: Config) -> Verification:
    clock, kept = SystemClock(), Kept(config)
    rules = Rules.of(config, Policy(policy_rules(config)))
    storage = open_storage(config, clock)
    try:
        total = await count_for_bar(kept, storage)
        with progress("checking", total) as step:
            work = Verification(storage, renewal_plan(config, storage, clock), kept, rules, clock, typer.echo, step)
            await work.run()
            return work
    finally:
        await storage.close()
