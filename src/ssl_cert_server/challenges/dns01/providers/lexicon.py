"""Every provider of dns-lexicon: synchronous code that knows no deadline, kept in threads of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import requests
import requests.adapters
import tldextract.tldextract
from lexicon.config import ConfigResolver
from lexicon.exceptions import AuthenticationError
from lexicon.interfaces import Provider

from ssl_cert_server.challenges.dns01.providers.catalogue import provider_class, typed_options
from ssl_cert_server.challenges.dns01.providers.turns import Threads, Turns
from ssl_cert_server.challenges.dns01.providers.words import Words
from ssl_cert_server.challenges.dns01.providers.zone import FindZone, zone_of
from ssl_cert_server.errors import ChallengeFailed

CALL_DEADLINE = 60.0
"""Seconds for one change: logging in, reading the zone, and the change itself."""

SOCKET_TIMEOUT = 30.0
"""Seconds for each read, where a provider sets none: a thread that waits for ever would never give its place back."""


class _BoundedAdapter(requests.adapters.HTTPAdapter):
    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,  # noqa: FBT001, FBT002 - the library's signature
        timeout: float | tuple[float | None, float | None] | None = None,
        verify: bool | str = True,  # noqa: FBT001, FBT002
        cert: str | tuple[str, str] | None = None,
        proxies: dict[str, str] | None = None,
    ) -> requests.Response:
        return super().send(request, stream, timeout or SOCKET_TIMEOUT, verify, cert, proxies)


# For the whole process: nothing else in it uses these two libraries.
requests.sessions.HTTPAdapter = _BoundedAdapter  # type: ignore[attr-defined]
# Some providers split names with it, and it would download its list at first: the one that it brings has to do.
tldextract.tldextract.TLD_EXTRACTOR = tldextract.TLDExtract(cache_dir=None, suffix_list_urls=())
# Its records quote what providers answer.
logging.getLogger("lexicon").setLevel(logging.CRITICAL + 1)


class LexiconProvider:
    """One account at a provider.

    A call that ran into the deadline goes on in its thread, and may still do what it was to do.
    """

    def __init__(
        self,
        name: str,
        options: Mapping[str, str],
        find_zone: FindZone,
        *,
        deadline: float = CALL_DEADLINE,
    ) -> None:
        """``name`` is dns-lexicon's, ``options`` are resolved and checked; ``deadline`` is in seconds."""
        self._name = name
        self._zone = options.get("zone")
        self._ttl = options.get("ttl")
        self._options = typed_options(name, options)
        self._find_zone = find_zone
        self._deadline = deadline
        self._words = Words(value for option, value in options.items() if option not in ("zone", "ttl"))
        self._turns = Turns(f"lexicon:{name}")
        self._threads = Threads(f"lexicon-{name}")

    async def add(self, record: str, value: str) -> None:
        # What it returns differs from provider to provider: whether the value is there, the name servers will tell.
        await self._call(f"can't add a TXT record {record}", record, lambda zone: _add(zone, record, value))

    async def remove(self, record: str, value: str) -> None:
        await self._call(f"can't remove a TXT record {record}", record, lambda zone: _remove(zone, record, value))

    async def _call(self, what: str, record: str, change: Callable[[Provider], None]) -> None:
        what = f"lexicon:{self._name} {what}"
        zone = await zone_of(record, self._zone, self._find_zone, what)
        # Many providers read a whole zone or record set and write it back.
        async with self._turns.at(zone):
            try:
                problem = await self._threads.run(lambda: self._work(zone, change), self._deadline)
            except TimeoutError:
                problem = f"no answer within {self._deadline:g} s"
            except RuntimeError:
                problem = "the system has no thread left"
        if problem is not None:
            raise ChallengeFailed(f"{what}: {problem}")

    def _work(self, zone: str, change: Callable[[Provider], None]) -> str | None:
        """Make the change; give what went wrong in words, since exceptions of theirs may hold anything."""
        try:
            # Not by lexicon.client.Client: it guesses the zone from a list that it downloads, or asks the system's
            # resolver, and gets private zones wrong. Otherwise it does just this.
            provider = provider_class(self._name)(self._config(zone))
            provider.authenticate()
            try:
                change(provider)
            finally:
                provider.cleanup()
        except BaseException as error:  # noqa: BLE001 - SystemExit of a provider is no reason to end
            return self._explain(error)
        return None

    def _config(self, zone: str) -> ConfigResolver:
        # Some providers look for the domain, or for an option with hyphens, among their own options.
        own = {
            "domain": zone,
            **self._options,
            **{key.replace("_", "-"): value for key, value in self._options.items()},
        }
        common: dict[str, object] = {"provider_name": self._name, "domain": zone, self._name: own}
        if self._ttl is not None:
            common["ttl"] = int(self._ttl)
        return ConfigResolver().with_dict(common)  # type: ignore[no-untyped-call]

    def _explain(self, error: BaseException) -> str:
        if isinstance(error, requests.HTTPError) and error.response is not None:
            return self._explain_status(error.response)
        if isinstance(error, requests.Timeout):
            return "it did not answer in time"
        if isinstance(error, requests.RequestException):
            return f"it can't be reached ({type(error).__name__})"
        said = self._words.clean(str(error))
        if isinstance(error, AuthenticationError):
            return f"it refused the credentials, or has no such zone: {said}"
        if isinstance(error, AttributeError | KeyError | TypeError):
            return f"{type(error).__name__}: {said}; check that no option is missing"
        return f"{type(error).__name__}: {said}"

    def _explain_status(self, response: requests.Response) -> str:
        said = self._words.clean(response.text)
        return f"HTTP {response.status_code}" + (f": {said}" if said else "")


def _add(provider: Provider, record: str, value: str) -> None:
    provider.create_record("TXT", record, value)


def _remove(provider: Provider, record: str, value: str) -> None:
    try:
        provider.delete_record(rtype="TXT", name=record, content=value)
    except Exception:
        # To some, a record that isn't there is an error.
        if provider.list_records("TXT", record, value):
            raise
