"""``ssl-cert-server check-config``: find every mistake before the server does."""

# No `from __future__ import annotations` here: typer reads the annotations.

from pathlib import Path
from typing import Annotated

import typer

from ssl_cert_server.config.load import load_config
from ssl_cert_server.errors import ConfigError


def check_config(
    config: Annotated[Path, typer.Option("-c", "--config", "-config", help="The configuration file to check.")],
) -> None:
    """Check a configuration file and print every mistake in it; the exit code is 2 where there is one."""
    try:
        load_config(config)
    except ConfigError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from error
    typer.echo(f"{config}: OK")
