"""``ssl-cert-server why NAME``: which rule answers a name, and why it has no certificate."""

# No `from __future__ import annotations` here: typer reads the annotations.

import asyncio

import typer

from ssl_cert_server.cli.options import ConfigFile, HostName, KeyFamilyOption, configuration
from ssl_cert_server.clock import SystemClock
from ssl_cert_server.config.schema import Config
from ssl_cert_server.model import KeyFamily
from ssl_cert_server.renewal.plan import RENEWALS
from ssl_cert_server.server.compose import policy_rules
from ssl_cert_server.server.storages import open_storages
from ssl_cert_server.service.policy import Policy
from ssl_cert_server.service.readiness import Readiness
from ssl_cert_server.service.why import explain
from ssl_cert_server.storage.write_watch import WriteWatch


def why(
    name: HostName,
    config: ConfigFile = None,
    keytype: KeyFamilyOption = None,
) -> None:
    """Say which rule answers NAME, what is stored, what failed last, when it is tried next, and what to do."""
    loaded, _ = configuration(config)
    typer.echo(asyncio.run(_explain(loaded, name, keytype)), nl=False)


async def _explain(config: Config, name: str, family: KeyFamily | None) -> str:
    clock = SystemClock()
    storage = open_storages(config, clock).storage
    # The rehearsal of /readyz, by the user who runs this command.
    trouble = Readiness(WriteWatch(storage, clock), clock).trouble
    policy = Policy(policy_rules(config))
    try:
        return await explain(name, policy, storage, clock, family, renewals=RENEWALS, trouble=trouble)
    finally:
        await storage.close()
