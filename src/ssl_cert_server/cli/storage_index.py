"""``ssl-cert-server storage rebuild-index``: the queue of renewals, made anew."""

# No `from __future__ import annotations` here: typer reads the annotations.

import asyncio

import typer

from ssl_cert_server.cli.options import ConfigFile, configuration
from ssl_cert_server.cli.printing import print_in_background
from ssl_cert_server.cli.progress import progress
from ssl_cert_server.clock import SystemClock
from ssl_cert_server.config.schema import Config
from ssl_cert_server.server.compose import policy_rules, renewal_plan
from ssl_cert_server.server.storages import open_storage
from ssl_cert_server.server.upkeep.index import QueueRebuild
from ssl_cert_server.server.upkeep.stored import Rules
from ssl_cert_server.service.policy import Policy


def rebuild_index(config: ConfigFile = None) -> None:
    """Schedule the renewal of every stored certificate that the configuration permits, and of no other.

    Servers may run meanwhile. The exit code is 1 where a certificate can't be used.
    """
    loaded, _ = configuration(config)
    print_in_background()
    done = asyncio.run(_rebuild(loaded))
    typer.echo(f"{done.scheduled} renewals scheduled, {done.removed} taken out, {done.unusable} certificates unusable")
    if done.unusable:
        raise typer.Exit(1)


async def _rebuild(config: Config) -> QueueRebuild:
    clock = SystemClock()
    rules = Rules.of(config, Policy(policy_rules(config)))
    storage = open_storage(config, clock)
    try:
        with progress("indexing", None) as step:
            work = QueueRebuild(storage, renewal_plan(config, storage, clock), rules, clock, typer.echo, step)
            await work.run()
            return work
    finally:
        await storage.close()
