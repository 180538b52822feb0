"""Options that several commands take."""

# No `from __future__ import annotations` here: typer reads the annotations.

from pathlib import Path
from typing import Annotated

import typer

from ssl_cert_server.config.load import load_config
from ssl_cert_server.config.schema import Config
from ssl_cert_server.errors import InvalidName
from ssl_cert_server.model import KeyFamily
from ssl_cert_server.pki.names import normalize_identifier

# Where the predecessor looked when it was given no file.
_CUSTOMARY = Path("conf.yaml")

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "-c",
        "--config",
        "-config",
        help="The configuration file. Without it ./conf.yaml is used where there is one, else development defaults.",
    ),
]

KeyFamilyOption = Annotated[KeyFamily | None, typer.Option("--keytype", help="The certificate with this kind of key.")]

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]


def _name(value: str) -> str:
    wildcard, rest = ("*.", value[2:]) if value.startswith("*.") else ("", value)
    try:
        return wildcard + normalize_identifier(rest)
    except InvalidName as error:
        raise typer.BadParameter(str(error)) from error


HostName = Annotated[
    str, typer.Argument(metavar="NAME", parser=_name, help="A host name, a wildcard or an IP address.")
]


def confirm(question: str, *, yes: bool) -> None:
    """Go on only if the operator says so.

    :raises typer.Exit: they don't, or nobody is there to ask.
    """
    if yes:
        return
    try:
        agreed = typer.confirm(question)
    except typer.Abort:
        typer.echo()  # the question's line goes on
        agreed = False
    if not agreed:
        typer.echo("nothing was done; where nobody can be asked, give --yes")
        raise typer.Exit(1)


def configuration(file: Path | None) -> tuple[Config, Path | None]:
    """Load the configuration, and tell from which file: None stands for the embedded defaults.

    :raises ConfigError: the file has mistakes.
    """
    if file is None and _CUSTOMARY.exists():
        file = _CUSTOMARY
    return (load_config(file), file) if file is not None else (Config(), None)
