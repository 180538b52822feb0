"""``ssl-cert-server storage``: commands that copy, check, seal, mend and remove what is stored."""

# No `from __future__ import annotations` here: typer reads the annotations.

import base64
import secrets

import typer

from ssl_cert_server.cli import storage_copy, storage_index, storage_remove, storage_reseal, storage_verify
from ssl_cert_server.storage.seal import KEY_BYTES

app = typer.Typer(help="Everything that is stored: copy, check, seal and mend it.", no_args_is_help=True)
app.command("copy")(storage_copy.copy)
app.command("verify")(storage_verify.verify)
app.command("reseal")(storage_reseal.reseal)
app.command("remove")(storage_remove.remove)
app.command("rebuild-index")(storage_index.rebuild_index)


@app.command("new-key")
def new_key() -> None:
    """Print a new key for storage.seal.keys: 32 random bytes in base64."""
    typer.echo(base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode())
