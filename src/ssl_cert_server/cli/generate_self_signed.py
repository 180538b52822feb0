"""``ssl-cert-server generate-self-signed``: a certificate for a web server's fallback, or for trying things out."""

# No `from __future__ import annotations` here: typer reads the annotations.

import contextlib
import ipaddress
import os
from pathlib import Path
from typing import Annotated

import typer

from ssl_cert_server.cli.printing import print_in_background
from ssl_cert_server.clock import SystemClock
from ssl_cert_server.config.schema import SelfSigned
from ssl_cert_server.config.values import organization as organization_name
from ssl_cert_server.errors import InvalidName, StartError
from ssl_cert_server.pki.names import normalize_name
from ssl_cert_server.pki.signing import Validity, self_sign

_ORGANIZATION = list(SelfSigned().organization)


def _san(value: str) -> str:
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        pass
    try:
        wildcard, name = ("*.", value[2:]) if value.startswith("*.") else ("", value)
        return wildcard + normalize_name(name)
    except InvalidName as error:
        raise typer.BadParameter(str(error)) from error


def _organization(value: str) -> str:
    try:
        return organization_name(value)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def generate_self_signed(
    days: Annotated[
        int, typer.Option("--days", "-days", "--valid-days", "-valid-days", min=1, max=36500, help="Days of validity.")
    ] = 365,
    cert_out: Annotated[
        Path, typer.Option("--cert-out", "-cert-out", help="The file to write the certificate to.")
    ] = Path("self_signed.cert"),
    key_out: Annotated[
        Path, typer.Option("--key-out", "-key-out", help="The file to write the private key to (mode 0600).")
    ] = Path("self_signed.key"),
    out: Annotated[
        Path | None, typer.Option("--out", "-out", help="Write key and certificate to this one file instead.")
    ] = None,
    organization: Annotated[
        list[str],
        typer.Option(
            "--organization", "-organization", parser=_organization, help="The subject's organization; repeatable."
        ),
    ] = _ORGANIZATION,
    name: Annotated[
        list[str] | None,
        typer.Option("--name", "-name", parser=_san, help="A host name or IP address it is for; repeatable."),
    ] = None,
) -> None:
    """Generate a self-signed certificate with a P-256 key."""
    print_in_background()
    certificate = self_sign(organization, name or [], Validity.days_from(SystemClock().now(), days))
    if out is not None:
        _write(out, certificate.stored, 0o600)
        typer.echo(f"wrote key and certificate to {out}")
    else:
        _write(key_out, certificate.key_pem, 0o600)
        _write(cert_out, certificate.chain_pem, 0o644)
        typer.echo(f"wrote the certificate to {cert_out} and its key to {key_out}")


def _write(path: Path, content: bytes, mode: int) -> None:
    """Replace a file as a whole; a private key is never in a file that others can read, not even for a moment."""
    temporary = path.parent / f".{path.name}.{os.getpid()}"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor has no path
            os.fchmod(descriptor, mode)
            file.write(content)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise StartError(f"can't write {path}: {error.strerror}; create its directory, or name another file") from error
