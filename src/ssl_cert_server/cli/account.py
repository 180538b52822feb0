"""``ssl-cert-server account``: the server's accounts at its CAs."""

# No `from __future__ import annotations` here: typer reads the annotations.

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from ssl_cert_server.cli.options import ConfigFile, Yes, configuration, confirm
from ssl_cert_server.cli.printing import print_in_background
from ssl_cert_server.clock import SystemClock
from ssl_cert_server.config.authorities import Acme
from ssl_cert_server.config.schema import Config
from ssl_cert_server.errors import StartError
from ssl_cert_server.issuers.account import AcmeAccount
from ssl_cert_server.server.engine import open_account
from ssl_cert_server.server.storages import open_storages

_T = TypeVar("_T")

app = typer.Typer(help="The server's accounts at its CAs.", no_args_is_help=True)

Ca = Annotated[
    str | None, typer.Option("--ca", help="The directory URL of the CA; needed where several are configured.")
]


@app.command("show")
def show(config: ConfigFile = None) -> None:
    """Print the account at every configured CA."""
    loaded, _ = configuration(config)
    for ca in loaded.cas:
        url = asyncio.run(_with_account(loaded, ca, _url))
        typer.echo(f"{ca.directory_url}: {url or 'no account yet; the first issuance registers one'}")


@app.command("change-key")
def change_key(config: ConfigFile = None, ca: Ca = None, yes: Yes = False) -> None:  # noqa: FBT002 - an option
    """Give the account a new key. Running servers go on with it; the old key is of no use afterwards."""
    _change(
        config, ca, "Change the key of the account at {}?", AcmeAccount.change_key, "the account has a new key", yes=yes
    )


@app.command("deactivate")
def deactivate(config: ConfigFile = None, ca: Ca = None, yes: Yes = False) -> None:  # noqa: FBT002 - an option
    """End the account for good. Its certificates stay valid; the next issuance registers another account."""
    question = "Deactivate the account at {}? It can't be brought back."
    _change(config, ca, question, AcmeAccount.deactivate, "the account is deactivated", yes=yes)


def _change(
    config: Path | None,
    ca: str | None,
    question: str,
    work: Callable[[AcmeAccount], Awaitable[None]],
    done: str,
    *,
    yes: bool,
) -> None:
    loaded, _ = configuration(config)
    chosen = _chosen(loaded, ca)
    confirm(question.format(chosen.directory_url), yes=yes)
    print_in_background()
    asyncio.run(_with_account(loaded, chosen, work))
    typer.echo(f"{chosen.directory_url}: {done}")


def _chosen(config: Config, url: str | None) -> Acme:
    found = [ca for ca in config.cas if url in (None, ca.directory_url)]
    if len(found) == 1:
        return found[0]
    names = ", ".join(ca.directory_url for ca in config.cas)
    raise StartError(f"say which CA is meant with --ca; configured are: {names}")


async def _url(account: AcmeAccount) -> str | None:
    session = await account.existing()
    return session.account_url if session else None


async def _with_account(config: Config, ca: Acme, work: Callable[[AcmeAccount], Awaitable[_T]]) -> _T:
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        storage = open_storages(config, clock).storage
        stack.push_async_callback(storage.close)
        account, _ = await open_account(ca, storage, clock, stack)
        return await work(account)
