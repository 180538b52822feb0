"""What an account does at its CA: orders, certificates, and its own key (RFC 8555 sections 7.3.5 to 7.6)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import structlog
from josepy.json_util import encode_b64jose

from ssl_cert_server.acme import accounts
from ssl_cert_server.acme.chains import Chain, preferred
from ssl_cert_server.acme.client import AcmeClient
from ssl_cert_server.acme.directory import Directory
from ssl_cert_server.acme.fields import object_of
from ssl_cert_server.acme.jose import AccountKey
from ssl_cert_server.acme.messages import Authorization, Order
from ssl_cert_server.acme.retry import ATTEMPTS, is_transient, is_transient_refusal
from ssl_cert_server.acme.revocation import revocation
from ssl_cert_server.acme.transport import Answer
from ssl_cert_server.errors import AcmeError, CaProblem, MalformedResponse
from ssl_cert_server.pki.names import is_ip

_log = structlog.get_logger()


class AcmeSession:
    """An account at a CA; see AcmeClient for what the methods raise. URLs are used exactly as the CA gave them."""

    def __init__(self, client: AcmeClient, key: AccountKey, account_url: str) -> None:
        self.account_url = account_url
        self._client = client
        self._key = key
        self._warned_of: set[str] = set()

    def key_authorization(self, token: str) -> str:
        """What a challenge's token is to be answered with (section 8.1)."""
        return self._key.key_authorization(token)

    # --- orders

    async def new_order(
        self,
        names: Sequence[str],
        *,
        profile: str | None = None,
        replaces: str | None = None,
        before_send: Callable[[], None] | None = None,
    ) -> Order:
        """Order a certificate (section 7.4) for DNS names in lower case, wildcards included, and IP addresses.

        ``profile`` is sent where the CA advertises it. ``replaces`` is the ARI id of the certificate that this one
        succeeds (RFC 9773 section 5); it is sent where the CA knows ARI, and left out in a second try where it is
        refused: it is advice to the CA, no condition of ours. ``before_send`` is called right before the order is
        sent, each time; where it raises, the order is not sent.
        """
        directory = await self._client.directory()
        payload: dict[str, Any] = {"identifiers": [_identifier(name) for name in names]}
        if profile is not None and self._advertised(profile, directory):
            payload["profile"] = profile
        if replaces is None or directory.renewal_info is None:
            return await self._new_order(directory, payload, before_send)
        try:
            return await self._new_order(directory, {**payload, "replaces": replaces}, before_send)
        except CaProblem as problem:
            if not _may_be_about_replaces(problem):
                raise
            _log.info("acme.order.replaces_refused", names=list(names), reason=str(problem))
        return await self._new_order(directory, payload, before_send, attempts=1)

    async def _new_order(
        self,
        directory: Directory,
        payload: dict[str, Any],
        before_send: Callable[[], None] | None,
        *,
        attempts: int = 2,
    ) -> Order:
        # Each time it is sent may be another order at the CA: so it is sent again only where it surely was none.
        body = json.dumps(payload).encode()
        answer = await self._send(
            directory.new_order, body, attempts=attempts, again=is_transient_refusal, before_send=before_send
        )
        return _order(answer, answer.created("newOrder"))

    def _advertised(self, profile: str, directory: Directory) -> bool:
        if profile in directory.profiles:
            return True
        if profile not in self._warned_of:
            self._warned_of.add(profile)
            _log.warning("acme.profile.unknown", profile=profile, advertised=sorted(directory.profiles))
        return False

    async def order(self, url: str) -> Order:
        """Fetch an order."""
        return _order(await self._fetch(url), url)

    async def authorization(self, url: str) -> Authorization:
        """Fetch an authorization (section 7.5)."""
        answer = await self._fetch(url)
        return Authorization.parse(answer.decoded("authorization"), retry_after=answer.retry_after)

    async def answer(self, challenge_url: str) -> None:
        """Tell the CA that the challenge is ready to be validated (section 7.5.1)."""
        answer = await self._post(challenge_url, {})
        object_of(answer.decoded("challenge"), "challenge")

    async def finalize(self, order: Order, csr_der: bytes) -> Order:
        """Hand in the CSR of an order that is ready (section 7.4).

        Sent once only: whether a request that failed was received, the order's state tells.
        """
        answer = await self._post(order.finalize, {"csr": encode_b64jose(csr_der)}, attempts=1)
        return _order(answer, order.url)

    # --- certificates

    async def certificate(self, url: str, *, preferred_chain: str | None = None) -> bytes:
        """Fetch a chain in PEM, leaf first (section 7.4.2), with nothing between the certificates.

        Of the chains that the CA offers for the leaf, ``preferred_chain`` takes the one whose topmost certificate was
        issued under that common name, else one that leads through it, else the CA's own choice.
        """
        answer = await self._fetch_chain(url)
        chain = Chain.parse(answer.body)
        if preferred_chain is None:
            return chain.pem
        chains = [chain]
        for alternate in answer.alternates:
            if chains[-1].ends_at(preferred_chain):
                break
            chains += await self._alternate(alternate, chain)
        found = preferred(chains, preferred_chain)
        if found is None:
            offered = [other.issuers[-1] for other in chains]
            _log.info("acme.chain.not_offered", preferred=preferred_chain, offered=offered)
        return (found or chain).pem

    async def _alternate(self, url: str, default: Chain) -> list[Chain]:
        """Give the chain there, or none: whatever is wrong with it, the default one is in our hands."""
        try:
            chain = Chain.parse((await self._fetch_chain(url)).body)
        except AcmeError as error:
            _log.info("acme.chain.alternate_failed", url=url, reason=str(error))
            return []
        return [chain] if chain.certificates[0] == default.certificates[0] else []

    async def revoke(self, certificate_der: bytes, reason: int | None = None) -> None:
        """Revoke a certificate that this account ordered (section 7.6); one that is revoked already is no error.

        :raises ValueError: ``reason`` is no RevocationReason.
        """
        payload = revocation(certificate_der, reason)
        directory = await self._client.directory()
        url = _known(directory.revoke_cert, "revokeCert")
        try:
            await self._send(url, payload)
        except CaProblem as problem:
            if problem.type != "alreadyRevoked":
                raise

    # --- the account itself

    async def change_key(self, new_key: AccountKey) -> None:
        """Put another key in the place of the account's (section 7.3.5); the session goes on with it.

        The caller keeps both keys until this ends. Where it raises, ``AcmeClient.find_account`` tells which one holds.
        CaProblem with status 409: the new key is another account's.
        """
        directory = await self._client.directory()
        url = _known(directory.key_change, "keyChange")
        payload = accounts.key_change(url, self.account_url, self._key, new_key)
        try:
            await self._send(url, payload)
        except AcmeError as error:
            # Of a request whose answer was lost, the second try is refused: the old key is worth nothing any more.
            if not await self._belongs_to_us(new_key):
                if isinstance(error, CaProblem) and error.status == 409:
                    raise _key_in_use(str(error)) from error
                raise
        else:
            await self._confirm(new_key)
        self._key = new_key

    async def _confirm(self, new_key: AccountKey) -> None:
        """A CA that says yes to a key in use, and changes nothing, was seen: the old key would be thrown away."""
        known_as = await self._client.find_account(new_key)
        if known_as is None:
            raise MalformedResponse("keyChange: the CA says that the key was changed, but does not know the new one")
        if known_as != self.account_url:
            raise _key_in_use(known_as)

    async def _belongs_to_us(self, key: AccountKey) -> bool:
        try:
            return await self._client.find_account(key) == self.account_url
        except AcmeError:
            return False

    async def deactivate(self) -> None:
        """End the account for good (section 7.3.6): no order, no revocation, no way back."""
        await self._send(self.account_url, accounts.deactivation())

    # --- requests

    async def _fetch(self, url: str, accept: str = "application/json") -> Answer:
        return await self._client.post(url, b"", key=self._key, kid=self.account_url, accept=accept)

    async def _fetch_chain(self, url: str) -> Answer:
        return await self._fetch(url, accept="application/pem-certificate-chain")

    async def _post(self, url: str, payload: dict[str, Any], *, attempts: int = ATTEMPTS) -> Answer:
        return await self._send(url, json.dumps(payload).encode(), attempts=attempts)

    async def _send(
        self,
        url: str,
        payload: bytes,
        *,
        attempts: int = ATTEMPTS,
        again: Callable[[AcmeError], bool] = is_transient,
        before_send: Callable[[], None] | None = None,
    ) -> Answer:
        return await self._client.post(
            url,
            payload,
            key=self._key,
            kid=self.account_url,
            attempts=attempts,
            again=again,
            before_send=before_send,
        )


def _identifier(name: str) -> dict[str, str]:
    return {"type": "ip" if is_ip(name) else "dns", "value": name}


def _may_be_about_replaces(problem: CaProblem) -> bool:
    # CAs say alreadyReplaced where another order did; malformed, unauthorized, or that there is no such thing, where
    # the certificate is another account's, of other names, or forgotten. Some fail where they look it up, and go on
    # failing. None of these is a reason not to renew.
    said = problem.type.rpartition(":")[2]
    return problem.status in (404, 409) or said in ("alreadyReplaced", "malformed", "unauthorized", "serverInternal")


def _key_in_use(words: str) -> CaProblem:
    message = f"the new account key belongs to another account already; make a new one ({words})"
    return CaProblem(message, type="conflict", status=409)


def _known(url: str | None, resource: str) -> str:
    if url is None:
        raise MalformedResponse(f"directory: field {resource!r} is missing")
    return url


def _order(answer: Answer, url: str) -> Order:
    return Order.parse(answer.decoded("order"), url=url, retry_after=answer.retry_after)
