"""``ssl-cert-server run``: the server itself."""

# No `from __future__ import annotations` here: typer reads the annotations.

import atexit
import sys
from pathlib import Path

import typer

from ssl_cert_server.cli.options import ConfigFile, configuration
from ssl_cert_server.config.addresses import ListenAddress, TcpAddress
from ssl_cert_server.server.run import run as run_server
from ssl_cert_server.server.standard_streams import STOPPING, queue_standard_output


def run(config: ConfigFile = None) -> None:
    """Run the server until SIGTERM or Ctrl-C."""
    loaded, file = configuration(config)
    # A pipe that nobody reads must not keep the server from starting, nor from ending.
    atexit.register(queue_standard_output().drain, STOPPING)
    run_server(loaded, lambda addresses: _announce(file, addresses))


def _announce(file: Path | None, addresses: list[ListenAddress]) -> None:
    source = f"configuration: {file}" if file else "development defaults: there is no configuration file"
    typer.echo(f"ssl-cert-server listens on {', '.join(map(str, addresses))} ({source})")
    if file is None:
        typer.echo(f"\nA certificate on the fly, from a local CA of your own:\n\n  {_curl(addresses[0])}\n")
        # By its path where it was called by one: after `make run` it isn't on PATH.
        program = sys.argv[0] if sys.argv[0].endswith("/ssl-cert-server") else "ssl-cert-server"
        typer.echo(f"Trust that CA with what `{program} local-ca root` prints. Ctrl-C stops the server.\n")


def _curl(address: ListenAddress) -> str:
    if isinstance(address, TcpAddress):
        return f"curl http://{address}/cert/hello.test"
    return f"curl --unix-socket {address.path} http://localhost/cert/hello.test"
