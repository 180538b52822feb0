"""What an account does at its CA: orders, authorizations, certificates (RFC 8555 sections 7.4 and 7.5)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from josepy.json_util import encode_b64jose

from ssl_cert_server.acme.client import AcmeClient
from ssl_cert_server.acme.jose import AccountKey
from ssl_cert_server.acme.messages import Authorization, Order
from ssl_cert_server.acme.retry import ATTEMPTS
from ssl_cert_server.acme.transport import Answer
from ssl_cert_server.errors import MalformedResponse


class AcmeSession:
    """An account at a CA; see AcmeClient for what the methods raise. URLs are used exactly as the CA gave them."""

    def __init__(self, client: AcmeClient, key: AccountKey, account_url: str) -> None:
        self._client = client
        self._key = key
        self._account_url = account_url

    def key_authorization(self, token: str) -> str:
        """What a challenge's token is to be answered with (section 8.1)."""
        return self._key.key_authorization(token)

    async def new_order(self, names: Sequence[str]) -> Order:
        """Order a certificate for DNS names in lower case, wildcards included (section 7.4)."""
        directory = await self._client.directory()
        payload = {"identifiers": [{"type": "dns", "value": name} for name in names]}
        answer = await self._post(directory.new_order, payload)
        return _order(answer, answer.created("newOrder"))

    async def order(self, url: str) -> Order:
        """Fetch an order."""
        return _order(await self._fetch(url), url)

    async def authorization(self, url: str) -> Authorization:
        """Fetch an authorization (section 7.5)."""
        answer = await self._fetch(url)
        return Authorization.parse(answer.decoded("authorization"), retry_after=answer.retry_after)

    async def answer(self, challenge_url: str) -> None:
        """Tell the CA that the challenge is ready to be validated (section 7.5.1)."""
        await self._post(challenge_url, {})

    async def finalize(self, order: Order, csr_der: bytes) -> Order:
        """Hand in the CSR of an order that is ready (section 7.4).

        Sent once only: whether a request that failed was received, the order's state tells.
        """
        answer = await self._post(order.finalize, {"csr": encode_b64jose(csr_der)}, attempts=1)
        return _order(answer, order.url)

    async def certificate(self, url: str) -> bytes:
        """Fetch a chain in PEM, leaf first (section 7.4.2), with nothing between the certificates."""
        answer = await self._fetch(url, accept="application/pem-certificate-chain")
        try:
            chain = x509.load_pem_x509_certificates(answer.body)
        except ValueError as error:
            raise MalformedResponse("certificate: the answer holds no PEM certificates") from error
        return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain)

    async def _fetch(self, url: str, accept: str = "application/json") -> Answer:
        return await self._client.post(url, b"", key=self._key, kid=self._account_url, accept=accept)

    async def _post(self, url: str, payload: dict[str, Any], *, attempts: int = ATTEMPTS) -> Answer:
        body = json.dumps(payload).encode()
        return await self._client.post(url, body, key=self._key, kid=self._account_url, attempts=attempts)


def _order(answer: Answer, url: str) -> Order:
    return Order.parse(answer.decoded("order"), url=url, retry_after=answer.retry_after)
