"""An account at a CA, both in this process, with time that passes at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest

from ssl_cert_server.acme.client import AcmeClient
from ssl_cert_server.acme.jose import AccountKey
from ssl_cert_server.acme.order import obtain
from ssl_cert_server.acme.session import AcmeSession
from ssl_cert_server.model import KeyType
from ssl_cert_server.pki.csr import make_csr
from ssl_cert_server.pki.keys import generate_key
from tests.support.clock import AutoClock
from tests.support.fake_ca import FakeCa

LEAF_KEY = generate_key(KeyType.ECDSA_P256)


@dataclass
class RecordingSolver:
    """Answers in a dictionary; ``events`` tells what happened in which order."""

    type: str = "http-01"
    answers: dict[tuple[str, str], str] = field(default_factory=dict)
    events: list[tuple[str, str]] = field(default_factory=list)
    present_error: Exception | None = None
    cleanup_error: Exception | None = None
    hang_in: str | None = None
    hanging: asyncio.Event = field(default_factory=asyncio.Event)

    async def present(self, name: str, token: str, key_authorization: str) -> None:
        self.events.append(("present", name))
        self.answers[name, token] = key_authorization
        await self._pause("present")
        if self.present_error:
            raise self.present_error

    async def cleanup(self, name: str, token: str) -> None:
        await self._pause("cleanup")
        self.events.append(("cleanup", name))
        self.answers.pop((name, token), None)
        if self.cleanup_error:
            raise self.cleanup_error

    async def _pause(self, where: str) -> None:
        if self.hang_in == where:
            self.hanging.set()
            await asyncio.Event().wait()
        await asyncio.sleep(0)

    def answer(self, name: str, token: str) -> str | None:
        return self.answers.get((name, token))


@dataclass
class Bench:
    ca: FakeCa
    clock: AutoClock
    client: AcmeClient
    key: AccountKey
    session: AcmeSession
    solver: RecordingSolver
    solvers: dict[str, list[RecordingSolver]] = field(default_factory=dict)

    async def obtain(
        self,
        *names: str,
        order_url: str | None = None,
        on_order: Callable[[str], Awaitable[None]] | None = None,
        csr_names: Sequence[str] | None = None,
        **options: Any,
    ) -> bytes:
        csr = make_csr(LEAF_KEY, csr_names or names)
        return await obtain(
            self.session, names, csr, self.choice, self.clock, order_url=order_url, on_order=on_order, **options
        )

    def choice(self, name: str) -> Sequence[RecordingSolver]:
        """What obtain is given: ``solvers`` for the name where the test set some, else the one solver."""
        return self.solvers.get(name, [self.solver])


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """An account that exists already; ``bench.ca.requests`` starts empty."""
    solver = RecordingSolver()
    ca, clock, key = FakeCa(responder=solver.answer), AutoClock(), AccountKey.generate()
    async with httpx2.AsyncClient(transport=ca) as http:
        client = AcmeClient(ca.directory_url, http, clock)
        session = AcmeSession(client, key, await client.new_account(key))
        ca.requests.clear()
        yield Bench(ca, clock, client, key, session, solver)
