"""A CA's directory, nonces and signed requests (RFC 8555 sections 6, 7.1.1 to 7.3), and its advice (RFC 9773)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx2

from ssl_cert_server.acme import accounts
from ssl_cert_server.acme.accounts import ExternalAccount
from ssl_cert_server.acme.ari import RenewalInfo
from ssl_cert_server.acme.directory import Directory
from ssl_cert_server.acme.jose import AccountKey
from ssl_cert_server.acme.nonces import NoncePool, SeenNonces
from ssl_cert_server.acme.problems import ca_problem
from ssl_cert_server.acme.retry import ATTEMPTS, is_transient, jittered, with_retries
from ssl_cert_server.acme.transport import Answer, exchange
from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import AcmeError, CaProblem, CaUnreachable, MalformedResponse

_DIRECTORY_LIFETIME = 24 * 3600.0
_MAX_CONCURRENT = 16
"""Signed requests at once. Each needs a nonce, and Let's Encrypt gives 20 a second to an address."""

ENTRY_DEADLINE = 8.0
"""Seconds for the directory, or a nonce: small answers, made of nothing. Where they don't come, another CA waits."""

_DIRECTORY_DEADLINE = 16.0
"""Seconds for the directory with all that is tried again."""

_MAX_NONCES = 20
_PROMPT_NONCES = 3
"""Rejected nonces that are replaced at once; after these each further try waits a moment."""

_NONCE_DELAY = 0.2


class AcmeClient:
    """One CA, as seen through one HTTP client. Shared by all accounts and orders at that CA.

    Every method raises AcmeError's kinds only: CaUnreachable, MalformedResponse, CaProblem. Failures that pass by
    themselves were retried before; a long Retry-After, and every 429, is raised at once with its ``retry_after``.
    """

    def __init__(self, directory_url: str, http: httpx2.AsyncClient, clock: Clock) -> None:
        self._directory_url = directory_url
        self._http = http
        self._clock = clock
        self._nonces = NoncePool()
        self._seen = SeenNonces()
        self._directory: Directory | None = None
        self._directory_until = 0.0
        self._directory_lock = asyncio.Lock()
        self._directory_failure: AcmeError | None = None
        self._slots = asyncio.Semaphore(_MAX_CONCURRENT)

    async def directory(self) -> Directory:
        """Where things are; asked once a day, and again after a failure."""
        try:
            async with asyncio.timeout(_DIRECTORY_DEADLINE):
                return await with_retries(self._current_directory, self._clock)
        except TimeoutError as error:
            raise CaUnreachable(f"{self._directory_url}: no directory within {_DIRECTORY_DEADLINE:g} s") from error

    async def new_account(
        self, key: AccountKey, contact: tuple[str, ...] = (), eab: ExternalAccount | None = None
    ) -> str:
        """Register the key, or find its account; the result is the account's URL (section 7.3).

        ``contact`` holds URLs (``mailto:admin@example.com``). Calling this agrees to the CA's terms of service. A CA
        that wants ``eab`` and isn't given it is not asked: CaProblem, type ``externalAccountRequired``.
        """
        directory = await self.directory()
        payload = accounts.new_account(self._directory_url, directory, key, contact, eab)
        answer = await self.post(directory.new_account, payload, key=key, kid=None)
        return answer.created("newAccount")

    async def find_account(self, key: AccountKey) -> str | None:
        """Give the URL of the key's account, None where the CA knows none (section 7.3.1)."""
        directory = await self.directory()
        try:
            answer = await self.post(directory.new_account, accounts.existing_account(), key=key, kid=None)
        except CaProblem as problem:
            if problem.type != "accountDoesNotExist":
                raise
            return None
        return answer.created("newAccount")

    async def renewal_info(self, ari_id: str) -> RenewalInfo:
        """Ask when a certificate would best be renewed; ``ari_id`` is what :func:`ari.ari_id` gave of it.

        Not signed, and counted against no account. AcmeError itself where the CA gives no such advice.
        """
        directory = await self.directory()
        if directory.renewal_info is None:
            raise AcmeError(f"{self._directory_url}: this CA gives no renewal information (RFC 9773)")
        url = f"{directory.renewal_info.rstrip('/')}/{ari_id}"

        async def attempt() -> Answer:
            answer = await self._exchange("GET", url)
            _raise_refusal(answer, everyone=False)
            return answer

        answer = await with_retries(attempt, self._clock)
        return RenewalInfo.parse(answer.decoded("renewalInfo"), retry_after=answer.retry_after)

    async def post(
        self,
        url: str,
        payload: bytes,
        *,
        key: AccountKey,
        kid: str | None,
        accept: str = "application/json",
        attempts: int = ATTEMPTS,
        again: Callable[[AcmeError], bool] = is_transient,
        before_send: Callable[[], None] | None = None,
    ) -> Answer:
        """Send a signed request (section 6.2); an empty ``payload`` is POST-as-GET. The answer is a success.

        ``again`` decides of a failure whether the request may be sent once more. ``before_send`` is called right before
        the request is sent, each time; where it raises, the request is not sent.
        """

        async def attempt() -> Answer:
            async with self._slots:
                return await self._post(url, payload, key, kid, accept, before_send)

        try:
            return await with_retries(attempt, self._clock, attempts=attempts, again=again)
        except AcmeError as error:
            self._distrust_directory(error)
            raise

    async def _post(
        self,
        url: str,
        payload: bytes,
        key: AccountKey,
        kid: str | None,
        accept: str,
        before_send: Callable[[], None] | None,
    ) -> Answer:
        headers = {"Content-Type": "application/jose+json", "Accept": accept}
        nonce = await self._nonce()
        rejected = 0
        while True:
            content = key.sign(payload, url=url, nonce=nonce, kid=kid)
            if before_send is not None:
                before_send()
            answer = await self._exchange("POST", url, headers=headers, content=content)
            problem = _refusal(answer)
            if problem is None or problem.type != "badNonce" or rejected == _MAX_NONCES - 1:
                break
            rejected += 1
            # The nonce of this very answer, as section 6.5 wants: those in stock may be as stale as the rejected one.
            nonce = answer.nonce or await self._nonce()
            if rejected >= _PROMPT_NONCES:
                await self._clock.sleep(jittered(_NONCE_DELAY, self._clock))
        self._nonces.put(answer.nonce)
        if problem is not None:
            raise problem
        return answer

    async def _nonce(self) -> str:
        nonce = self._nonces.take()
        if nonce is not None:
            return nonce
        directory = await self._current_directory()
        answer = await self._exchange("HEAD", directory.new_nonce, deadline=ENTRY_DEADLINE)
        _raise_refusal(answer, everyone=True)
        if answer.nonce is None:
            raise MalformedResponse("newNonce: no usable Replay-Nonce header")
        return answer.nonce

    async def _current_directory(self) -> Directory:
        known_failure = self._directory_failure
        async with self._directory_lock:
            if self._directory is not None and self._clock.monotonic() < self._directory_until:
                return self._directory
            if self._directory_failure is not None and self._directory_failure is not known_failure:
                raise self._directory_failure  # who waited for it meanwhile has waited long enough
            try:
                self._directory = await self._fetch_directory()
            except AcmeError as error:
                self._directory_failure = error
                raise
            self._directory_until = self._clock.monotonic() + _DIRECTORY_LIFETIME
            return self._directory

    async def _fetch_directory(self) -> Directory:
        answer = await self._exchange("GET", self._directory_url, deadline=ENTRY_DEADLINE)
        _raise_refusal(answer, everyone=True)
        return Directory.parse(answer.decoded("directory"))

    def _distrust_directory(self, error: AcmeError) -> None:
        # The CA may have moved a resource or ended a profile; a day of the same mistake would follow.
        stale = isinstance(error, CaProblem) and (error.status == 404 or error.type == "invalidProfile")
        # Fetched anew, it tells whether the CA is back before anything is spent.
        down = isinstance(error, CaUnreachable) or (isinstance(error, CaProblem) and error.status >= 500)
        if stale or down:
            self._directory = None

    async def _exchange(
        self,
        method: str,
        url: str,
        *,
        headers: dict[str, str] | None = None,
        content: bytes | None = None,
        deadline: float | None = None,
    ) -> Answer:
        # What a GET gives may come from a cache, its nonce too.
        seen = None if method == "GET" else self._seen
        return await exchange(
            self._http,
            method,
            url,
            now=self._clock.now(),
            headers=headers,
            content=content,
            seen=seen,
            deadline=deadline,
        )


def _refusal(answer: Answer, *, everyone: bool = False) -> CaProblem | None:
    if answer.status < 400:
        return None
    return ca_problem(answer.status, answer.body, retry_after=answer.retry_after, everyone=everyone)


def _raise_refusal(answer: Answer, *, everyone: bool) -> None:
    problem = _refusal(answer, everyone=everyone)
    if problem is not None:
        raise problem
