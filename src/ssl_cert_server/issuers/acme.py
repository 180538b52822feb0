"""An ACME CA as the service sees it: names in, a certificate out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ssl_cert_server.acme.ari import RenewalInfo, ari_id
from ssl_cert_server.acme.authorize import ChallengeChoice
from ssl_cert_server.acme.client import AcmeClient
from ssl_cert_server.acme.order import obtain
from ssl_cert_server.acme.session import AcmeSession
from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import CaProblem, InvalidCertificate, OrderFailed, ValidationFailed
from ssl_cert_server.issuers.account import AcmeAccount
from ssl_cert_server.model import Certificate, KeyFamily, KeyType, OpenOrder
from ssl_cert_server.pki.csr import make_csr
from ssl_cert_server.pki.keys import PrivateKey, generate_key, key_from_pem, key_to_pem
from ssl_cert_server.pki.x509 import assemble

_log = structlog.get_logger()

_T = TypeVar("_T")

_DOUBTED_FOR = 3_600.0
"""Seconds for which no refusal ends an order. A CA's replica that lags behind, or a filter before it, refuses what is
well; the certificate may have been issued, and ordered anew it would count as another one."""

_FILTERED_FOR = 86_400.0
"""The same, where the words aren't the CA's: a new order would meet the same filter."""

KeepOrder = Callable[[OpenOrder], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class CaSettings:
    """How certificates are ordered at one CA; ``preferred_chain`` is the common name of a chain's topmost issuer."""

    directory_url: str
    key_types: Mapping[KeyFamily, KeyType]
    profile: str | None = None
    preferred_chain: str | None = None


@dataclass(frozen=True, slots=True)
class CaTerms:
    """What has to be known before a certificate is ordered."""

    account_url: str
    caa_identities: tuple[str, ...]


class AcmeCa:
    """Issues through one account at one CA."""

    def __init__(self, account: AcmeAccount, client: AcmeClient, clock: Clock, settings: CaSettings) -> None:
        self.directory_url = settings.directory_url
        self._account = account
        self._client = client
        self._clock = clock
        self._settings = settings

    async def terms(self) -> CaTerms:
        """Give the account, registered at the first call, and what CAA records call this CA.

        :raises AcmeError: the CA gives no account.
        :raises StorageError: the account can't be kept.
        """
        directory = await self._client.directory()
        session = await self._account.session()
        return CaTerms(session.account_url, directory.caa_identities)

    async def account_url(self) -> str | None:
        """Give the account's URL where there is one already; nothing is asked of the CA.

        :raises StorageError: it can't be read.
        """
        session = await self._account.existing()
        return session.account_url if session else None

    async def issue(
        self,
        names: Sequence[str],
        family: KeyFamily,
        choice: ChallengeChoice,
        *,
        replaces: str | None,
        before_order: Callable[[], Awaitable[None]],
        before_send: Callable[[], None],
        on_order: KeepOrder,
    ) -> Certificate:
        """Order a certificate; the order and its key go to ``on_order`` before anything is done for it.

        ``before_order`` is awaited before the CA is asked for an order, and ``before_send`` called right before the
        request is sent; where one raises, the CA is not asked.
        ``replaces`` is the ARI id of the certificate that it succeeds.

        :raises AcmeError: the CA refused or could not be reached.
        """
        key = await asyncio.to_thread(generate_key, self._settings.key_types[family])

        placed: dict[str, str] = {}  # URLs of orders, by account

        async def work(session: AcmeSession) -> bytes:
            async def keep(url: str) -> None:
                placed[session.account_url] = url
                await on_order(OpenOrder(self.directory_url, url, key_to_pem(key).decode("ascii"), self._clock.now()))

            return await obtain(
                session,
                names,
                make_csr(key, names),
                choice,
                self._clock,
                # Where only the account's key was changed since, the order is still open.
                order_url=placed.get(session.account_url),
                before_order=before_order,
                before_send=before_send,
                on_order=keep,
                profile=self._settings.profile,
                replaces=replaces,
                preferred_chain=self._settings.preferred_chain,
            )

        return assemble(key, await self._as_account(work))

    async def resume(self, names: Sequence[str], choice: ChallengeChoice, order: OpenOrder) -> Certificate | None:
        """Go on with an order that was left open; None where it is of no use any more.

        :raises ValidationFailed: the CA did not find a challenge's answer; the order is of no use either.
        :raises AcmeError: it may be of use yet.
        """
        try:
            key: PrivateKey = key_from_pem(order.key_pem.encode("ascii"))
            csr = make_csr(key, names)
            chain = await obtain(
                await self._account.session(),
                names,
                csr,
                choice,
                self._clock,
                order_url=order.order_url,
                preferred_chain=self._settings.preferred_chain,
            )
            return assemble(key, chain)
        except ValidationFailed:
            raise
        except (OrderFailed, InvalidCertificate) as error:
            reason = str(error)
        except CaProblem as error:
            if not _is_over(order, error, self._clock.now()):
                raise
            reason = str(error)
        _log.info("acme.order.abandoned", names=list(names), order=order.order_url, reason=reason)
        return None

    async def renewal_info(self, certificate: Certificate) -> RenewalInfo | None:
        """Ask when a certificate should be renewed (RFC 9773); None where this CA gives no such advice.

        :raises AcmeError: no usable answer.
        """
        directory = await self._client.directory()
        identifier = ari_id(certificate.chain_pem)
        if directory.renewal_info is None or identifier is None:
            return None
        return await self._client.renewal_info(identifier)

    async def revoke(self, certificate: Certificate, reason: int) -> None:
        """Revoke a certificate of this account (RFC 8555 section 7.6); ``reason`` is RFC 5280's number.

        :raises AcmeError: the CA refused or could not be reached.
        """
        leaf = x509.load_pem_x509_certificate(certificate.chain_pem).public_bytes(Encoding.DER)
        await self._as_account(lambda session: session.revoke(leaf, reason))

    async def _as_account(self, work: Callable[[AcmeSession], Awaitable[_T]]) -> _T:
        """Work as the account, and once more where the CA knew it no longer under this key."""
        session = await self._account.session()
        try:
            return await work(session)
        except CaProblem as error:
            if not await self._account.mend(session, error):
                raise
        return await work(await self._account.session())


def _is_over(order: OpenOrder, problem: CaProblem, now: float) -> bool:
    """Tell whether an order that the CA refuses to go on with is of no use any more, and not refused by mistake."""
    if problem.type == "accountDoesNotExist":
        return True
    doubted_for = _FILTERED_FOR if problem.passing else _DOUBTED_FOR
    # One from the future was noted by a clock that ran ahead.
    return problem.status < 429 and not 0 <= now - order.placed_at < doubted_for
