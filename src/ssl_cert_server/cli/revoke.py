"""``ssl-cert-server revoke NAME``: for keys that leaked, and certificates that must not be trusted any more."""

# No `from __future__ import annotations` here: typer reads the annotations.

import asyncio
import enum
from contextlib import AsyncExitStack
from typing import Annotated

import typer

from ssl_cert_server.acme.revocation import RevocationReason
from ssl_cert_server.cli.options import ConfigFile, HostName, KeyFamilyOption, Yes, configuration, confirm
from ssl_cert_server.cli.printing import print_in_background
from ssl_cert_server.clock import SystemClock
from ssl_cert_server.config.schema import Config
from ssl_cert_server.errors import NotPermitted, StorageError
from ssl_cert_server.model import KeyFamily
from ssl_cert_server.server.compose import open_ask, policy_rules, renewal_plan
from ssl_cert_server.server.engine import open_engine
from ssl_cert_server.server.revocation import Revocation
from ssl_cert_server.server.storages import open_storages
from ssl_cert_server.service.policy import Policy, Source


class Reason(enum.StrEnum):
    """Why, in RFC 5280's words, as far as CAs take them from subscribers."""

    UNSPECIFIED = "unspecified"
    KEY_COMPROMISE = "keyCompromise"
    AFFILIATION_CHANGED = "affiliationChanged"
    SUPERSEDED = "superseded"
    CESSATION_OF_OPERATION = "cessationOfOperation"

    @property
    def code(self) -> RevocationReason:
        """RFC 5280 section 5.3.1."""
        return _CODES[self]


_CODES = {
    Reason.UNSPECIFIED: RevocationReason.UNSPECIFIED,
    Reason.KEY_COMPROMISE: RevocationReason.KEY_COMPROMISE,
    Reason.AFFILIATION_CHANGED: RevocationReason.AFFILIATION_CHANGED,
    Reason.SUPERSEDED: RevocationReason.SUPERSEDED,
    Reason.CESSATION_OF_OPERATION: RevocationReason.CESSATION_OF_OPERATION,
}


def revoke(
    name: HostName,
    config: ConfigFile = None,
    reason: Annotated[Reason, typer.Option("--reason", help="Why.")] = Reason.UNSPECIFIED,
    keytype: KeyFamilyOption = None,
    without_replacement: Annotated[  # noqa: FBT002 - an option
        bool, typer.Option("--without-replacement", help="Revoke at once, though visitors are left without.")
    ] = False,
    yes: Yes = False,  # noqa: FBT002 - an option
) -> None:
    """Have the certificate for NAME replaced by one with a new key, and then revoke it at its CA.

    Running servers hand out the new one within seconds, and answer its CA's challenges.
    """
    loaded, _ = configuration(config)
    confirm(f"Revoke the certificate for {name} ({reason})? This can't be undone.", yes=yes)
    print_in_background()
    typer.echo(asyncio.run(_revoke(loaded, name, keytype, reason.code, replace=not without_replacement)))


async def _revoke(config: Config, name: str, family: KeyFamily | None, reason: int, *, replace: bool) -> str:
    clock = SystemClock()
    decision = Policy(policy_rules(config)).decide_for_operator(name, family)
    if decision.source is not Source.ACME:
        raise NotPermitted(f"{name} is not answered by a CA's certificate here; there is nothing to revoke")
    async with AsyncExitStack() as stack:
        storage = open_storages(config, clock).storage
        stack.push_async_callback(storage.close)
        engine = await open_engine(config, storage, clock, stack)
        revocation = Revocation(
            storage, engine, renewal_plan(config, storage, clock), await open_ask(config, storage, clock, stack), clock
        )
        old = await revocation.find(decision.subject)
        if old is None:
            raise StorageError(f"{name} has no stored certificate under {decision.subject.cert_key}")
        if replace:
            await revocation.replace(decision.subject, old, stack)
        await revocation.revoke(decision.subject, old, reason)
        left = "" if replace else "; the next request for it has another one issued"
        return f"{name}: the certificate {old.certificate.fingerprint} is revoked{left}"
