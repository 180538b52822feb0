"""``ssl-cert-server local-ca``: the local CA's root, for trust stores."""

# No `from __future__ import annotations` here: typer reads the annotations.

import asyncio

import typer

from ssl_cert_server.cli.options import ConfigFile, configuration
from ssl_cert_server.clock import SystemClock
from ssl_cert_server.config.schema import Config
from ssl_cert_server.issuers.local_ca import LocalCa
from ssl_cert_server.server.storages import open_storages

app = typer.Typer(help="The local CA, which answers names that no public CA issues for.", no_args_is_help=True)


@app.callback()
def options() -> None:
    """The local CA, which answers names that no public CA issues for."""


@app.command("root")
def root(config: ConfigFile = None) -> None:
    """Print the root certificate in PEM, for trust stores; it is created where there is none yet."""
    loaded, _ = configuration(config)
    typer.echo(asyncio.run(_root_pem(loaded)), nl=False)


async def _root_pem(config: Config) -> bytes:
    clock = SystemClock()
    storage = open_storages(config, clock).storage
    try:
        return (await LocalCa(storage, clock).root()).chain_pem
    finally:
        await storage.close()
