"""Options that several commands take."""

# No `from __future__ import annotations` here: typer reads the annotations.

from pathlib import Path
from typing import Annotated

import typer

from ssl_cert_server.config.load import load_config
from ssl_cert_server.config.schema import Config

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


def configuration(file: Path | None) -> tuple[Config, Path | None]:
    """Load the configuration, and tell from which file: None stands for the embedded defaults.

    :raises ConfigError: the file has mistakes.
    """
    if file is None and _CUSTOMARY.exists():
        file = _CUSTOMARY
    return (load_config(file), file) if file is not None else (Config(), None)
