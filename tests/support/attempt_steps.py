"""One instance that issues by ACME, with every step it takes numbered, so that a test can break any one of them.

A step is a call of storage, a request to the CA, or a log line; all but the CA are the product's own parts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, TypeVar, cast

import httpx2
import structlog

from ssl_cert_server.acme.client import AcmeClient
from ssl_cert_server.challenges.choice import Challenges
from ssl_cert_server.challenges.dns01.solver import Dns01
from ssl_cert_server.challenges.http01 import Http01Responder
from ssl_cert_server.errors import CertServerError, StorageError
from ssl_cert_server.issuers.account import AcmeAccount
from ssl_cert_server.issuers.acme import AcmeCa, CaSettings
from ssl_cert_server.model import Certificate, KeyFamily, KeyType, Subject
from ssl_cert_server.renewal.plan import RenewalPlan
from ssl_cert_server.renewal.upkeep import CertificateUpkeep
from ssl_cert_server.service.attempts import Attempts
from ssl_cert_server.service.authorities import Authorities
from ssl_cert_server.service.budget.limits import NO_LIMITS, CaLimits, Limit
from ssl_cert_server.service.budget.planner import Budget
from ssl_cert_server.service.ca_health import CaHealth
from ssl_cert_server.service.issuance import AcmeCertificates
from ssl_cert_server.service.name_states import NameStates
from ssl_cert_server.service.orders import Authority, Orders
from ssl_cert_server.service.preflight import Preflight
from ssl_cert_server.service.turns import Turns
from ssl_cert_server.storage.base import Due, Lease
from ssl_cert_server.storage.memory import MemoryStorage
from ssl_cert_server.storage.write_watch import WriteWatch
from tests.support.clock import ManualClock
from tests.support.fake_ca import FakeCa

NAME = "a.example"
_ZONE = "b.example"
SUBJECTS = {
    "ecdsa": Subject(NAME, (NAME,)),
    "rsa": Subject(f"{NAME}+rsa", (NAME,), KeyFamily.RSA),
    "wildcard": Subject(f"*.{_ZONE}", (f"*.{_ZONE}",)),
}
"""Certificates, each stored under a key of its own, by what is special about that."""

_LIMITS = CaLimits(
    new_orders=Limit(20, 3600.0), per_registered_domain=None, per_exact_set=None, failed_authorizations=Limit(5, 3600.0)
)
_PATIENCE = 300.0

_T = TypeVar("_T")


class Killed(BaseException):
    """The process is gone: nothing that it does reaches storage or the CA any more."""


class Steps:
    """Counts the steps of one instance, and calls ``strike`` at the one with the number ``at``.

    ``strike`` gets what the step does, to be awaited or not.
    """

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.at = 0
        self.strike: Callable[[Callable[[], Awaitable[Any]], str], Awaitable[Any]] | None = None
        self.dead = False
        self.learned_of_order = False
        """Whether the CA's answer to a new order reached the instance."""

    async def step(self, what: str, work: Callable[[], Awaitable[_T]]) -> _T:
        """Take a step."""
        if self.dead:
            raise Killed
        self.taken.append(what)
        if self.strike is not None and len(self.taken) == self.at:
            struck: _T = await self.strike(work, what)
            return struck
        return await work()


class SteppedStorage(MemoryStorage):
    """One instance's way to what all instances share; its reads and writes are steps."""

    def __init__(self, shared: MemoryStorage, steps: Steps) -> None:
        self.__dict__.update(shared.__dict__)
        self._shared = shared
        self._steps = steps
        self.refuses: Callable[[str], bool] = lambda _: False
        """Tells of a write, in the words of its step, whether it fails."""

    async def get(self, key: str) -> bytes | None:
        return await self._steps.step(f"get {key}", lambda: self._shared.get(key))

    async def put(self, key: str, value: bytes, *, lease: Lease | None = None) -> None:
        await self._write(f"put {key}", lambda: self._shared.put(key, value, lease=lease))

    async def delete(self, key: str, *, lease: Lease | None = None) -> None:
        await self._write(f"delete {key}", lambda: self._shared.delete(key, lease=lease))

    async def acquire(self, name: str, seconds: float) -> Lease | None:
        return await self._write(f"acquire {name}", lambda: self._shared.acquire(name, seconds))

    async def release(self, lease: Lease) -> None:
        await self._write(f"release {lease.name}", lambda: self._shared.release(lease))

    async def schedule(self, queue: str, entries: Sequence[Due]) -> None:
        await self._write(f"schedule {queue}", lambda: self._shared.schedule(queue, entries))

    async def announce(self, keys: Sequence[str]) -> None:
        await self._write("announce", lambda: self._shared.announce(keys))

    async def check_writable(self) -> None:
        """Works whatever else does not: what it tests is another write than those that follow."""

    async def _write(self, what: str, work: Callable[[], Awaitable[_T]]) -> _T:
        async def written() -> _T:
            if self.refuses(what):
                raise StorageError(f"can't {what}: the disk is gone")
            return await work()

        return await self._steps.step(what, written)


class SteppedCa(httpx2.AsyncBaseTransport):
    """One instance's way to the CA; its requests are steps."""

    def __init__(self, ca: FakeCa, steps: Steps) -> None:
        self._ca = ca
        self._steps = steps

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        what = request.url.path.split("/")[1]
        answer = await self._steps.step(f"CA {what}", lambda: self._ca.handle_async_request(request))
        self._steps.learned_of_order |= what == "newOrder" and answer.status_code == httpx2.codes.CREATED
        return answer


class Stepped:
    """An instance. What is stored, and the CA, outlive it; so does the clock."""

    def __init__(self, shared: MemoryStorage, ca: FakeCa, clock: ManualClock) -> None:
        self.steps = Steps()
        self.storage = SteppedStorage(shared, self.steps)
        self._clock = clock
        self._http = httpx2.AsyncClient(transport=SteppedCa(ca, self.steps))
        storage = WriteWatch(self.storage, clock)
        client = AcmeClient(ca.directory_url, self._http, clock)
        account = AcmeAccount(storage, client, clock, directory_url=ca.directory_url, email="")
        key_types = {KeyFamily.ECDSA: KeyType.ECDSA_P256, KeyFamily.RSA: KeyType.RSA_2048}
        settings = CaSettings(ca.directory_url, key_types)
        budget = Budget(storage, clock)
        responder = Http01Responder(storage, clock)
        preflight = Preflight(_NoDns(), public_ips=(), caa=False)
        orders = Orders(Challenges(direct=[responder], dns01=cast(Dns01, _Zone())), preflight, budget, clock)
        authority = Authority(AcmeCa(account, client, clock, settings), _LIMITS, CaHealth(clock))
        authorities = Authorities([authority], orders, budget, clock, on_demand=NO_LIMITS, patience=_PATIENCE)
        self.states = NameStates(storage, clock)
        plan = RenewalPlan(storage, clock, None)
        self.certificates = AcmeCertificates(
            storage,
            self.states,
            Attempts(storage, self.states, authorities, clock, deadline=_PATIENCE),
            Turns(32, clock),
            clock,
            upkeep=CertificateUpkeep(plan, None, storage, on_stored=lambda *_: None),
        )

    async def ask(self, renews: str = "", *, subject: Subject = SUBJECTS["ecdsa"]) -> Certificate | None:
        """Ask as a handshake does, or as a renewal of the certificate with this fingerprint; None where it failed."""
        try:
            if renews:
                return await self.certificates.renew(subject, renews)
            return await self.certificates.obtain(subject.names[0].replace("*", "any"), subject)
        except (CertServerError, asyncio.CancelledError, RuntimeError):
            return None

    async def close(self) -> None:
        """End what is under way."""
        await self.certificates.close()
        await self._http.aclose()


def break_log(at: int = 0) -> list[str]:
    """Have the log line with the number ``at`` raise; return the events that are logged, as they come."""
    lines: list[str] = []

    def write(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        lines.append(event["event"])
        if len(lines) == at:
            raise RuntimeError("the log can't be written")
        raise structlog.DropEvent

    structlog.configure(processors=[write])
    return lines


class _Zone:
    """dns-01 in the zone of the wildcard, which needs it."""

    type = "dns-01"

    def handles(self, name: str) -> bool:
        return name == _ZONE

    async def obstacle(self, name: str) -> str | None:
        return f"{name} is in another zone"

    async def present(self, name: str, token: str, key_authorization: str) -> None:
        assert all((name, token, key_authorization))

    async def cleanup(self, name: str, token: str) -> None:
        assert all((name, token))


class _NoDns:
    async def addresses(self, name: str) -> tuple[str, ...]:
        raise AssertionError(name)

    async def caa(self, name: str) -> tuple[()]:
        raise AssertionError(name)
