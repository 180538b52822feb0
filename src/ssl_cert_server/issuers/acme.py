"""An ACME CA as issuance sees it: a name in, a certificate out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from ssl_cert_server.acme.order import ChallengeSolver, obtain
from ssl_cert_server.acme.session import AcmeSession
from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import CaProblem, InvalidCertificate, OrderFailed
from ssl_cert_server.issuers.account import AcmeAccount
from ssl_cert_server.model import Certificate, KeyType, OpenOrder
from ssl_cert_server.pki.csr import make_csr
from ssl_cert_server.pki.keys import PrivateKey, generate_key, key_from_pem, key_to_pem
from ssl_cert_server.pki.x509 import assemble

_log = structlog.get_logger()


class AcmeCa:
    """Issues through one account at one CA, with one kind of challenge."""

    def __init__(
        self, account: AcmeAccount, solver: ChallengeSolver, clock: Clock, *, directory_url: str, key_type: KeyType
    ) -> None:
        self._account = account
        self._solver = solver
        self._clock = clock
        self._directory_url = directory_url
        self._key_type = key_type

    async def issue(
        self, name: str, order: OpenOrder | None, on_order: Callable[[OpenOrder], Awaitable[None]]
    ) -> Certificate:
        """See :class:`ssl_cert_server.service.issuance.CertificateAuthority`."""
        session = await self._account.session()
        try:
            return await self._issue(session, name, order, on_order)
        except CaProblem as error:
            if error.type != "accountDoesNotExist":
                raise
            _log.warning("acme.account.unknown", directory_url=self._directory_url, remedy="registering the key again")
        await self._account.forget(session)
        return await self._issue(await self._account.session(), name, None, on_order)

    async def _issue(
        self,
        session: AcmeSession,
        name: str,
        order: OpenOrder | None,
        on_order: Callable[[OpenOrder], Awaitable[None]],
    ) -> Certificate:
        if order is not None and order.directory_url == self._directory_url:
            certificate = await self._resume(session, name, order)
            if certificate is not None:
                return certificate
        key = await asyncio.to_thread(generate_key, self._key_type)

        async def keep(url: str) -> None:
            await on_order(OpenOrder(self._directory_url, url, key_to_pem(key).decode("ascii")))

        chain = await obtain(session, [name], make_csr(key, [name]), self._solver, self._clock, on_order=keep)
        return assemble(key, chain)

    async def _resume(self, session: AcmeSession, name: str, order: OpenOrder) -> Certificate | None:
        """Go on with an order that was left open; None where it is of no use any more."""
        try:
            key: PrivateKey = key_from_pem(order.key_pem.encode("ascii"))
            csr = make_csr(key, [name])
            return assemble(
                key, await obtain(session, [name], csr, self._solver, self._clock, order_url=order.order_url)
            )
        except (OrderFailed, InvalidCertificate) as error:
            reason = str(error)
        except CaProblem as error:
            if error.passing or error.type == "accountDoesNotExist":
                raise
            reason = str(error)
        _log.info("acme.order.abandoned", name=name, order=order.order_url, reason=reason)
        return None
