"""The command line's root: options of the program itself, and errors as one line each."""

# No `from __future__ import annotations` here: typer reads the annotations.

import sys
from typing import Annotated

import structlog
import typer

from ssl_cert_server import __version__
from ssl_cert_server.cli import account, check_config, generate_self_signed, local_ca, revoke, run, storage, why
from ssl_cert_server.errors import CertServerError, ConfigError
from ssl_cert_server.server.logs import set_up_logs
from ssl_cert_server.server.standard_streams import take_over_standard_streams

_log = structlog.get_logger()

app = typer.Typer(
    name="ssl-cert-server",
    help="One server that holds all TLS certificates of a fleet.",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("run")(run.run)
app.command("check-config")(check_config.check_config)
app.command("generate-self-signed")(generate_self_signed.generate_self_signed)
app.command("why")(why.why)
app.command("revoke")(revoke.revoke)
app.add_typer(account.app, name="account")
app.add_typer(local_ca.app, name="local-ca")
app.add_typer(storage.app, name="storage")


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - typer's callback signature
    if wanted:
        typer.echo(f"ssl-cert-server {__version__}")
        raise typer.Exit


@app.callback()
def options(
    *,
    version: Annotated[
        bool, typer.Option("--version", "-version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """One server that holds all TLS certificates of a fleet."""


def _with_command(arguments: list[str]) -> list[str]:
    """Take the predecessor's oldest form, which had no commands: ``ssl-cert-server -config conf.yaml`` ran it."""
    runs = bool(arguments) and arguments[0].partition("=")[0] in {"-c", "-config", "--config"}
    return ["run", *arguments] if runs else arguments


def main() -> None:
    """Run the command line; the exit code is 2 for a wrong configuration or usage, 1 for any other failure."""
    # First of all, so that nothing can be logged or printed before.
    set_up_logs(take_over_standard_streams().write, colors=sys.stderr.isatty())
    try:
        app(_with_command(sys.argv[1:]))
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
    except CertServerError as error:
        sys.stderr.write(f"ssl-cert-server: {error}\n")
        sys.exit(1)
    except Exception:  # noqa: BLE001 - a bug: the log redacts secrets in its traceback
        _log.exception("process.crashed")
        sys.exit(1)
